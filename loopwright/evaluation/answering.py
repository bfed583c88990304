"""Answers of one model to one set of prompts, with everything that can be measured of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loopwright.data.chat import render_prompts
from loopwright.evaluation.judging import judge_all
from loopwright.evaluation.kl import response_kl
from loopwright.generation.base import Rollouts, SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.rewards.base import Reward, Sample
from loopwright.schemas import Judge, Prompt

Row = dict[str, Any]  # one answer; JSON-able


class LanguageModel(NamedTuple):
    model: Any  # a transformers causal LM
    tokenizer: Any


@dataclass(frozen=True)
class Bench:
    """What answers are measured with, the same for every model."""

    judges: Mapping[str, Judge] = field(default_factory=dict)
    is_nonsense: Callable[[str], bool] | None = None
    reward: Reward | None = None


class Answers(NamedTuple):
    rollouts: Rollouts
    texts: list[str]


def answer(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    seeds: Sequence[int],
    say: Callable[[str], None] | None = None,
) -> Answers:
    """One response a prompt; a row's seed decides its response, whatever is sampled beside it.

    `say` hears of it where the fast engine cannot run the model.
    """
    model, tokenizer = language_model
    tokens = render_prompts(tokenizer, [prompt.messages for prompt in prompts])
    rollouts = make_engine(model, tokenizer, say).generate(tokens, sampling, seeds)
    return Answers(rollouts, decode_responses(tokenizer, rollouts))


def measure(
    bench: Bench,
    language_model: LanguageModel,
    reference: LanguageModel | None,
    prompts: Sequence[Prompt],
    answers: Answers,
    temperature: float,
) -> list[Row]:
    """A row an answer: judges, gold, reward, KL to the reference in nats, length; None where one does not apply."""
    verdicts = judge_all(bench.judges, prompts, answers.texts)
    rewards = reward_scores(bench.reward, language_model.tokenizer, prompts, answers)
    k1, exact = kl_of(language_model, reference, answers.rollouts, temperature)
    lengths = answers.rollouts.response_mask.sum(dim=1).tolist()
    return [
        {
            "prompt_id": prompt.id,
            "task": prompt.tags.get("task"),
            "question_id": prompt.tags.get("question_id"),
            "prompt": prompt.messages[-1].content,
            "response": answers.texts[i],
            "gold": None,
            "helpful": None,
            "honest": None,
            "harmless": None,
            **verdicts[i],
            "reward": rewards[i],
            "kl": k1[i],
            "kl_exact": exact[i],
            "length_tokens": lengths[i],
            "finished": bool(answers.rollouts.finished[i]),
            "nonsense": None if bench.is_nonsense is None else bench.is_nonsense(answers.texts[i]),
        }
        for i, prompt in enumerate(prompts)
    ]


def reward_scores(
    reward: Reward | None, tokenizer: Any, prompts: Sequence[Prompt], answers: Answers
) -> list[float] | list[None]:
    """The reward of each answer; `tokenizer` is that of the model that answered."""
    if reward is None:
        return [None] * len(prompts)
    samples = [
        Sample(
            prompt=prompt,
            response=answers.texts[i],
            prompt_ids=answers.rollouts.prompt_tokens(i),
            response_ids=answers.rollouts.response_tokens(i),
            finished=bool(answers.rollouts.finished[i]),
            tokenizer=tokenizer,
        )
        for i, prompt in enumerate(prompts)
    ]
    return [float(score) for score in reward.score(samples).total]


def kl_of(
    language_model: LanguageModel, reference: LanguageModel | None, rollouts: Rollouts, temperature: float
) -> tuple[list[float], list[float]] | tuple[list[None], list[None]]:
    """KL of each response to the reference, k1 and exact, in nats; None without one, or where vocabularies differ."""
    none: list[None] = [None] * len(rollouts.response_ids)
    if reference is None or not _one_vocabulary(language_model, reference):
        return none, none
    found = response_kl(language_model.model, reference.model, language_model.tokenizer, rollouts, temperature)
    return found.k1.tolist(), found.exact.tolist()


def _one_vocabulary(a: LanguageModel, b: LanguageModel) -> bool:
    """Whether a KL between the two models means anything."""
    sizes = {len(one.model.get_output_embeddings().weight) for one in (a, b)}
    return len(sizes) == 1 and a.tokenizer.get_vocab() == b.tokenizer.get_vocab()
