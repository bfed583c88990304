"""Frozen records that cross a file, a process or a network."""

from loopwright.schemas.answers import ScoredAnswer
from loopwright.schemas.base import Record
from loopwright.schemas.constitution import Constitution, Principle, RevisedAnswer, Revision
from loopwright.schemas.feedback import (
    AI,
    IMPORTED,
    Attack,
    Comparison,
    Correction,
    Judgement,
    Ranking,
    Rating,
    Span,
    SpanFeedback,
    Strength,
    Thumb,
    is_ai,
)
from loopwright.schemas.judges import Judge
from loopwright.schemas.kinds import KINDS
from loopwright.schemas.prompts import Demonstration, Message, Prompt
from loopwright.schemas.responders import Chooser, Pieces, Reply, ReplySettings, Responder, whole

__all__ = [
    "AI",
    "IMPORTED",
    "KINDS",
    "Attack",
    "Chooser",
    "Comparison",
    "Constitution",
    "Correction",
    "Demonstration",
    "Judge",
    "Judgement",
    "Message",
    "Pieces",
    "Principle",
    "Prompt",
    "Ranking",
    "Rating",
    "Record",
    "Reply",
    "ReplySettings",
    "Responder",
    "RevisedAnswer",
    "Revision",
    "ScoredAnswer",
    "Span",
    "SpanFeedback",
    "Strength",
    "Thumb",
    "is_ai",
    "whole",
]
