"""A project's settings as a form: the fields that its kind uses, and back to a ProjectConfig with errors in words."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.projects import HHH, Criterion, ProjectConfig

Input = Literal["selection", "text", "number", "money", "share", "yes", "lines", "definitions", "scale"]
EVERY = frozenset(FORMS)
JUDGED = frozenset(kind for kind, form in FORMS.items() if not form.written)
CHOSEN = frozenset(kind for kind, form in FORMS.items() if form.selections)
DIRECTIONS = {True: "(high is good)", False: "(low is good)"}  # behind the name of a criterion of a rating


class Field(NamedTuple):
    name: str
    label: str
    help: str
    input: Input
    kinds: frozenset[str] | None = None  # that use it; None: those whose declaration names it


FIELDS = (
    Field("question", "Question", "Stands above the answers. Empty: the kind's own words.", "text", EVERY),
    Field(
        "criteria", "Criteria",
        "One a line, its name and what it means: “honest: What it says is true.” In a rating a name may say where its "
        "marks do not go as the others: “toxic (low is good): It insults somebody.”", "definitions",
    ),
    Field("criteria_strengths", "By each criterion also how much better", "For margins by criterion.", "yes"),
    Field("checks", "Yes-or-no questions", "One a line.", "lines"),
    Field("scale", "Scale", "The lowest and the highest mark: “1 to 7”.", "scale"),
    Field("higher_is_better", "High marks are good", "", "yes"),
    Field("span_labels", "What can be the matter with a passage", "One a line.", "lines"),
    Field("safety", "Ask which answers are safe", "", "yes"),
    Field("improve", "The better answer may be edited", "", "yes"),
    Field("reasons", "Short reasons", "One a line: labelers press them to say why.", "lines"),
    Field("reason_when_significant", "A significant difference needs a reason", "", "yes"),
    Field("blur", "Texts are blurred until they are asked for", "For what may upset.", "yes"),
    Field("responder", "Model to talk to", "By its name in the server's settings.", "text"),
    Field("reply_tokens", "Longest answer", "In tokens; small models have few.", "number"),
    Field("overlap", "People for each item", "Agreement can only be measured with two or more.", "number", JUDGED),
    Field(
        "gold_share", "Share of gold items", "0.05: one task in twenty is an item with a known answer.", "share", JUDGED
    ),
    Field("lease_minutes", "Minutes that an item is kept", "For whoever opened it.", "number", EVERY),
    Field(
        "label_cost", "Money for a label", "Where people are paid so. Empty: the hourly rates count.", "money",
        EVERY,
    ),
    Field("selection", "What is asked next", "All but random need scores, or labels.", "selection", CHOSEN),
    Field("random_share", "Share that stays random", "Where what is asked is chosen. Empty: 0.2.", "share", CHOSEN),
    Field("seed", "Seed", "Of the orders in which answers are shown. Empty: drawn at random.", "number", EVERY),
)  # fmt: skip


def fields_of(kind: str) -> list[Field]:
    """Those that the kind uses."""
    used = FORMS[kind].settings
    return [one for one in FIELDS if (one.name in used if one.kinds is None else kind in one.kinds)]


def first_values(kind: str) -> dict[str, str]:
    """What the form of a new project shows."""
    defaults = {name: field.get_default() for name, field in ProjectConfig.model_fields.items()}
    shown = _without_idle_share({field.name: _shown(field, defaults[field.name]) for field in fields_of(kind)})
    if kind == "rating":
        shown["criteria"] = "\n".join(f"{name}: {definition}" for name, definition in HHH)
    return shown


def values_of(config: ProjectConfig) -> dict[str, str]:
    """What the form of a project shows."""
    return _without_idle_share(
        {field.name: _shown(field, getattr(config, field.name)) for field in fields_of(config.kind)}
    )


def _without_idle_share(shown: dict[str, str]) -> dict[str, str]:
    """Where all is random, the share that is has no effect, and would be refused."""
    return shown | {"random_share": ""} if shown.get("selection") == "random" else shown


def read(kind: str, given: Mapping[str, str]) -> tuple[ProjectConfig | None, dict[str, str]]:
    """The settings, or what is the matter by field; under "" what concerns several."""
    found: dict[str, Any] = {"kind": kind}
    errors: dict[str, str] = {}
    for field in fields_of(kind):
        try:
            value = _read(field.input, given.get(field.name, "").strip())
        except ValueError as error:
            errors[field.name] = str(error)
            continue
        if value is not None:
            found[field.name] = value
    if errors:
        return None, errors
    try:
        return ProjectConfig.model_validate(found), {}
    except ValidationError as error:
        for one in error.errors():
            name = str(one["loc"][0]) if one["loc"] else ""
            errors.setdefault(name if any(field.name == name for field in fields_of(kind)) else "", _words(one["msg"]))
        return None, errors


def _read(input: Input, text: str) -> Any:
    """None: left empty, so the default counts."""
    match input:
        case "yes":
            return text == "yes"
        case "lines":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "definitions":
            return [_criterion(line) for line in text.splitlines() if line.strip()]
        case "scale":
            return _scale(text)
        case "number" | "money" | "share":
            return None if not text else _number(text, whole=input == "number")
    return text or None


def _number(text: str, *, whole: bool) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"“{text[:40]}” is no {'whole ' if whole else ''}number") from None


def _criterion(line: str) -> dict[str, Any]:
    name, colon, definition = line.partition(":")
    if not colon or not definition.strip():
        raise ValueError(f"“{line.strip()[:60]}” lacks its definition; write it after a colon")
    name, own = name.strip().lower(), None
    for direction, words in DIRECTIONS.items():
        if name.endswith(words):
            name, own = name.removesuffix(words).strip(), direction
    return {"name": name.replace(" ", "_"), "definition": definition.strip(), "higher_is_better": own}


def _scale(text: str) -> list[float] | None:
    if not text:
        return None
    low, _, high = text.replace("–", " to ").partition(" to ")
    if not high:
        raise ValueError(f"“{text[:40]}” is no scale; write it as “1 to 7”")
    return [_number(end.strip(), whole=True) for end in (low, high)]


def _shown(field: Field, value: Any) -> str:
    match field.input:
        case "yes":
            return "yes" if value else ""
        case "lines":
            return "\n".join(value)
        case "definitions":
            return "\n".join(f"{one.name}{_direction(one)}: {one.definition}" for one in value)
        case "scale":
            return f"{value[0]} to {value[1]}"
    return "" if value is None else str(value)


def _direction(criterion: Criterion) -> str:
    return "" if criterion.higher_is_better is None else f" {DIRECTIONS[criterion.higher_is_better]}"


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")
