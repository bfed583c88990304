"""NVIDIA's HelpSteer2: ratings of helpfulness, correctness and coherence, and preferences with a strength."""

from collections.abc import Iterator

from loopwright.data.exporters.base import Account, Exporter, Row, on_scale, text_of
from loopwright.data.importers.helpsteer import MERITS, SCALE, STRENGTHS
from loopwright.schemas import Comparison, Rating, Record

_NUMBERS = {strength: number for number, strength in STRENGTHS.items()}


def rows(record: Record, account: Account, kept: frozenset[str]) -> Iterator[Row]:
    """A rating of all three merits from 0 to 4, or a preference; a negative strength prefers the first."""
    prompt = text_of(getattr(record, "prompt", ()), account)
    if prompt is None:
        return
    if isinstance(record, Rating):
        if on_scale(record, SCALE, MERITS) and len(record.scores) == len(MERITS):
            yield {"prompt": prompt, "response": record.responses[0]} | {name: record.scores[name] for name in MERITS}
        else:
            account.leave(f"a rating other than of {', '.join(MERITS)}, higher better, {SCALE[0]} to {SCALE[1]}")
    elif isinstance(record, Comparison):
        strength = 0 if record.choice is None else record.strength and _NUMBERS.get(record.strength)
        if strength is None:
            account.leave("a preference without one of the strengths slightly, better, significantly")
            return
        if record.choice is None and record.strength:
            account.change("the strength of a tie is left out")
        if record.margin is None and record.choice is not None:
            account.change("the number of a strength is read back as a margin, too")
        elif record.margin not in (None, strength):
            account.change("a margin other than the number of its strength is read back as that")
        first, second = record.responses
        signed = -strength if record.choice == 0 else strength
        yield {"prompt": prompt, "response_1": first, "response_2": second, "preference_strength": signed}


HELPSTEER = Exporter(
    rows,
    {
        Rating: frozenset({"prompt", "responses", "scores", "scale_low", "scale_high", "higher_is_better"}),
        Comparison: frozenset({"prompt", "responses", "choice", "strength", "margin"}),
    },
    '{"prompt", "response", "helpfulness", …} or {"response_1", "response_2", "preference_strength"}',
)
