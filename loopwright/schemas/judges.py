"""Judges: the one protocol that worlds, annotators and evaluation share."""

from collections.abc import Callable

from loopwright.schemas.prompts import Prompt

Judge = Callable[[Prompt, str], float | None]  # score in [0, 1] of a response; None: does not apply to this prompt
