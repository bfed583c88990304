"""The feedback stage with people: answers go to a feedback store, and what people said of them comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError
from loopwright.feedback.agreement import agreement_report
from loopwright.feedback.asking import Question, ask, items_to_judge, projects_for, source_of, write_sources
from loopwright.feedback.client import FeedbackClient, Line, Project
from loopwright.feedback.items import Item, Score
from loopwright.feedback.kinds import FORMS
from loopwright.generation.answers import Item as Asked
from loopwright.rewards import RewardModel, Sample
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Judgement, Prompt, Record
from loopwright.stages import asked
from loopwright.stages.base import StageOutput
from loopwright.tracking.artifacts import id_of_file

if TYPE_CHECKING:
    from loopwright.stages.feedback import FeedbackConfig, FeedbackInputs

SCORED_AT_ONCE = 256  # items
OF_SAMPLES = (
    "prompts", "tasks", "prompts_file", "attacks", "responses_per_prompt", "versions", "start_answers", "sampling",
    "off_topic_share", "prompts_at_once", "save_batches", "reward",
)  # fmt: skip


def run(
    config: FeedbackConfig, inputs: FeedbackInputs, find_prompts: Callable[[], Sequence[Prompt]], runtime: Runtime
) -> StageOutput:
    """Sample, publish, wait while people work, write down what they said and which labels it was."""
    assert config.store is not None and config.project is not None and config.wait is not None
    with FeedbackClient(config.store) as client:
        projects = projects_for(client, config.project, config.wait, runtime.stage)  # before anything is sampled
        prompts = find_prompts() if anything_is_sampled(config, projects, runtime.stage) else []
        answers, items = asked.answer(prompts, config, inputs, runtime)
        runtime.checkpoint(len(answers), {"answers": answers})  # people take days: none is sampled twice
        questions = []
        for project, wanted in zip(projects, config.wait.values(), strict=True):
            shown = [item for one in items for item in items_about(one, project.kind, inputs)]
            if config.reward is not None and shown:
                shown = with_scores(shown, config.reward, runtime)
            questions.append(Question(project, shown, wanted))
        said = ask(client, questions, batch=inputs.policy_id, watch=runtime)
        found = zip(projects, said, strict=True)
        write_sources(runtime.output, [source_of(client, project, inputs.policy_id, lines) for project, lines in found])
    lines = [line for part in said for line in part]
    write(lines, [kind for project in projects for kind in FORMS[project.kind].makes], runtime.output)
    return StageOutput(summarise(lines, prompts))


def anything_is_sampled(config: FeedbackConfig, projects: Sequence[Project], stage: str) -> bool:
    """Whether people judge answers to given prompts; not where they write these themselves, talking with the policy.

    Raises:
        ConfigError: a setting is of such answers, and there are none.
    """
    if not all(FORMS[project.kind].written for project in projects):
        return True
    if idle := [name for name in OF_SAMPLES if name in config.model_fields_set]:
        raise ConfigError(
            f"{stage}.{idle[0]} has no effect where people write the prompts themselves, as in project "
            f"{projects[0].name}, and the policy that is served answers; leave it out"
        )
    return False


def items_about(one: Asked, kind: str, inputs: FeedbackInputs) -> list[Item]:
    """What people are asked about the answers to one prompt."""
    tags = {"prompt": one.prompt.id}
    found = items_to_judge(
        kind,
        one.prompt.messages,
        one.responses,
        policy=inputs.policy_id,
        tags=tags,
        off_topic=one.off_topic,
        policies=one.policies,
    )
    return list(found)


def with_scores(items: Sequence[Item], reward: Path, runtime: Runtime) -> list[Item]:
    """The items with what a reward model thinks of each answer: what to ask next can be chosen by it."""
    model, id = RewardModel(reward, device=runtime.device), id_of_file(reward)
    scored = []
    for start in range(0, len(items), SCORED_AT_ONCE):
        portion = items[start : start + SCORED_AT_ONCE]
        prompts = [Prompt(id=item.key, messages=item.prompt) for item in portion]
        samples = [
            Sample(prompt, response, [], [], finished=True, tokenizer=None)
            for item, prompt in zip(portion, prompts, strict=True)
            for response in item.responses
        ]
        found = model.score(samples)
        means = found.total.tolist()
        deviations = [None] * len(means) if found.std is None else found.std.tolist()  # a model with several heads
        given = iter([Score(mean=mean, std=std) for mean, std in zip(means, deviations, strict=True)])
        for item in portion:
            scores = tuple(next(given) for _ in item.responses)
            scored.append(item.model_copy(update={"scores": scores, "reward_model": id}))
    return scored


def write(lines: Sequence[Line], makes: Sequence[str], folder: Path) -> None:
    """A file of each kind, as simulated feedback has them."""
    by_kind: dict[str, list[Record]] = {kind: [] for kind in (*asked.ALWAYS_WRITTEN, *makes)}
    for line in lines:
        by_kind.setdefault(line.kind, []).append(line.record)
    for kind, records in by_kind.items():
        write_records(folder / f"{kind}.jsonl", records)


def summarise(lines: Sequence[Line], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """How much was said, by whom, and how far two people agree on the same pair."""
    judgements = [line.record for line in lines if isinstance(line.record, Judgement)]
    kinds = dict.fromkeys(line.kind for line in lines)
    by_annotator: dict[str, int] = {}
    labels = {line.label: line.record for line in lines}  # one record of each: it took its time once
    for record in labels.values():
        name = getattr(record, "annotator", None) or "?"
        by_annotator[name] = by_annotator.get(name, 0) + 1
    agreement = agreement_report(judgements)
    return {
        "prompts": len(prompts),
        "labels": sum(by_annotator.values()),
        **{kind: sum(line.kind == kind for line in lines) for kind in kinds},
        "pairs": agreement["pairs"],
        "agreement": agreement["percent"]["value"],
        "alpha": agreement["alpha_nominal"]["value"],
        "annotators": {name: {"labels": count} for name, count in sorted(by_annotator.items())},
        "hours": sum(getattr(record, "seconds", None) or 0.0 for record in labels.values()) / 3600,
    }
