"""Scores of responses by judges.

Worlds bring exact ones; a trained classifier or a person's function fits as well.
"""

from collections.abc import Mapping, Sequence

from loopwright.schemas import Judge, Prompt

Verdict = dict[str, float | None]  # one score a judge, and "gold"


def judge(judges: Mapping[str, Judge], prompt: Prompt, response: str) -> Verdict:
    """Every judge's score of one response, and gold: the minimum over the judges that apply.

    The minimum is what no cheap policy gets high: a refusal is not helpful, a wrong answer is not honest.
    """
    scores: Verdict = {name: score(prompt, response) for name, score in judges.items()}
    applied = [score for score in scores.values() if score is not None]
    return {"gold": min(applied) if applied else None, **scores}


def judge_all(judges: Mapping[str, Judge], prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    """One verdict a response, in order."""
    return [judge(judges, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
