"""Frozen records that cross a file, a process or a network."""

from loopwright.schemas.answers import ScoredAnswer
from loopwright.schemas.base import Record
from loopwright.schemas.feedback import (
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
)
from loopwright.schemas.judges import Judge
from loopwright.schemas.kinds import KINDS
from loopwright.schemas.prompts import Demonstration, Message, Prompt
from loopwright.schemas.responders import Pieces, Reply, ReplySettings, Responder, whole

__all__ = [
    "KINDS",
    "Attack",
    "Comparison",
    "Correction",
    "Demonstration",
    "Judge",
    "Judgement",
    "Message",
    "Pieces",
    "Prompt",
    "Ranking",
    "Rating",
    "Record",
    "Reply",
    "ReplySettings",
    "Responder",
    "ScoredAnswer",
    "Span",
    "SpanFeedback",
    "Strength",
    "Thumb",
    "whole",
]
