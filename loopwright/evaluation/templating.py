"""The template engine of the report and its charts. Everything that is put into a page is escaped."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from loopwright.evaluation import figures


def environment() -> Environment:
    """Templates of `loopwright/evaluation/templates`, with the report's ways to write numbers as filters."""
    made = Environment(
        loader=PackageLoader("loopwright.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(figure=figures.figure, percent=figures.percent, duration=figures.duration, place=figures.place)
    return made


def source(name: str) -> str:
    """The text of a template, such as a style sheet."""
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0]
