"""The samples of Constitutional AI: answers to harmful prompts, criticised and revised; answers to harmless ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from loopwright.errors import DataError
from loopwright.responders.replies import replies
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import (
    AI,
    Constitution,
    Demonstration,
    Message,
    Principle,
    Prompt,
    Reply,
    ReplySettings,
    Responder,
    RevisedAnswer,
    Revision,
)
from loopwright.schemas.constitution import Flaw, same_text

if TYPE_CHECKING:
    from loopwright.stages.constitutional import ConstitutionalConfig


class Voices(NamedTuple):
    """Who answers, and who criticises and revises; it may be the same."""

    policy: Responder
    policy_id: str | None
    critic: Responder


def revise_all(
    prompts: Sequence[Prompt],
    constitution: Constitution,
    voices: Voices,
    config: ConstitutionalConfig,
    runtime: Runtime,
) -> list[RevisedAnswer]:
    """The policy's answer to each prompt with its critiques and revisions, in the order of the prompts.

    Raises:
        DataError: a prompt leaves no room for an answer.
        ResponderError: the critic's server does not answer; what was revised before is kept for the next attempt.
    """
    found = runtime.restore()
    done = [RevisedAnswer.model_validate(saved) for saved in found.state["revised"]] if found else []
    with runtime.progress("criticising and revising", len(prompts), start=len(done)) as bar:
        while len(done) < len(prompts):
            first = len(done)
            batch = prompts[first : first + config.prompts_at_once]
            done += _revised(batch, first, constitution, voices, config, runtime)
            bar.advance(len(batch))
            runtime.checkpoint(len(done), {"revised": [one.model_dump(mode="json") for one in done]})
    return done


def _revised(  # noqa: PLR0913 -- a batch of `revise_all`
    prompts: Sequence[Prompt],
    first: int,
    constitution: Constitution,
    voices: Voices,
    config: ConstitutionalConfig,
    runtime: Runtime,
) -> list[RevisedAnswer]:
    numbers = range(first, first + len(prompts))
    answers = _answers(prompts, [runtime.seed_for("answer", n) for n in numbers], voices.policy, config)
    revised = [
        RevisedAnswer(
            id=prompt.id,
            prompt=prompt.messages,
            answer=answer.text,
            policy=voices.policy_id,
            critic=voices.critic.name,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    orders = [draw_principles(constitution, config.revisions, runtime.seed_for("principles", n)) for n in numbers]
    for turn in range(config.revisions):
        principles = [order[turn] for order in orders]
        seeds = [(runtime.seed_for("critique", n, turn), runtime.seed_for("revision", n, turn)) for n in numbers]
        revised = revise_once(revised, principles, voices.critic, config.critic_settings, seeds)
    return revised


def draw_principles(constitution: Constitution, count: int, seed: int) -> list[Principle]:
    """Drawn without replacement; when all have been drawn, all may be drawn again."""
    rng = random.Random(seed)
    drawn: list[Principle] = []
    while len(drawn) < count:
        drawn += rng.sample(constitution.principles, len(constitution.principles))
    return drawn[:count]


def revise_once(
    answers: Sequence[RevisedAnswer],
    principles: Sequence[Principle],
    critic: Responder,
    settings: ReplySettings,
    seeds: Sequence[tuple[int, int]],
) -> list[RevisedAnswer]:
    """One critique and one revision of each answer as it stands, by its principle (Bai et al. 2022, sec. 3.1).

    The critic reads a conversation: prompt, answer, critique request, critique, revision request. So whatever the
    answer or the critique says is a turn's text, and never a turn.

    Args:
        seeds: of the critique and of the revision.
    """
    asked = [
        (*answer.prompt, _said(answer.final), _asked(principle.critique_request))
        for answer, principle in zip(answers, principles, strict=True)
    ]
    critiques = replies(critic, asked, settings, [seed for seed, _ in seeds])
    critical = [i for i, critique in enumerate(critiques) if critique is not None and critique.text.strip()]
    asked_again = [(*asked[i], _said(_text(critiques[i])), _asked(principles[i].revision_request)) for i in critical]
    found = replies(critic, asked_again, settings, [seeds[i][1] for i in critical])
    revisions = dict(zip(critical, found, strict=True))
    revised = []
    for i, answer in enumerate(answers):
        # A critique that is missing or empty leaves nothing to revise by.
        last = revisions.get(i, critiques[i])
        text = _text(revisions.get(i))
        flaw = "too_long" if last is None or not last.finished else flaw_of(text, answer.final)
        one = Revision(principle=principles[i].id, critique=_text(critiques[i]), revision=text, flaw=flaw)
        revised.append(answer.model_copy(update={"revisions": (*answer.revisions, one)}))
    return revised


def flaw_of(revision: str, before: str) -> Flaw | None:
    """Why a whole revision does not count, if it does not."""
    if not revision.strip():
        return "empty"
    return "unchanged" if same_text(revision, before) else None


def answer_helpfully(
    prompts: Sequence[Prompt], count: int, policy: Responder, config: ConstitutionalConfig, runtime: Runtime
) -> list[Demonstration]:
    """The policy's own answers to `count` harmless prompts, several to one where there are fewer; the whole ones.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    found = runtime.restore()
    texts: list[str | None] = found.state["answers"] if found else []
    with runtime.progress("answering harmless prompts", count, start=len(texts)) as bar:
        while len(texts) < count:
            numbers = range(len(texts), min(count, len(texts) + config.prompts_at_once))
            seeds = [runtime.seed_for("helpful", n) for n in numbers]
            answers = _answers([prompts[n % len(prompts)] for n in numbers], seeds, policy, config)
            texts += [answer.text if answer.finished and answer.text.strip() else None for answer in answers]
            bar.advance(len(numbers))
            runtime.checkpoint(len(texts), {"answers": texts})
    asked = [(n, prompts[n % len(prompts)], text) for n, text in enumerate(texts) if text is not None]
    return [
        Demonstration(
            id=f"{prompt.id}/helpful-{n}", prompt=prompt.messages, response=text, annotator=f"{AI}{policy.name}"
        )
        for n, prompt, text in asked
    ]


def _answers(
    prompts: Sequence[Prompt], seeds: Sequence[int], policy: Responder, config: ConstitutionalConfig
) -> list[Reply]:
    answers = replies(policy, [prompt.messages for prompt in prompts], config.answer_settings, seeds)
    for prompt, answer in zip(prompts, answers, strict=True):
        if answer is None:
            raise DataError(
                f"prompt {prompt.id!r} with an answer of max_new_tokens = {config.max_new_tokens} is longer than the "
                "policy's context; shorten the prompt or lower max_new_tokens"
            )
    return [answer for answer in answers if answer is not None]


def _text(reply: Reply | None) -> str:
    return "" if reply is None else reply.text


def _said(text: str) -> Message:
    return Message(role="assistant", content=text)


def _asked(text: str) -> Message:
    return Message(role="user", content=text)
