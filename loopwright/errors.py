"""One hierarchy of errors for people.

Each message is one sentence: what was found, where (file:line), what to do.
A mistake of the caller raises one of these; `assert` guards our own invariants.
"""


class LoopwrightError(Exception):
    """Anything the user can act on. The CLI prints it without a traceback and exits 1."""


class ConfigError(LoopwrightError):
    """A setting is unknown, of the wrong type, out of range, contradictory or without effect."""


class DataError(LoopwrightError):
    """An input file is missing, empty, or has more bad rows than the run allows."""


class ModelError(LoopwrightError):
    """A model or tokenizer cannot be used as asked."""


class ArtifactError(LoopwrightError):
    """An artifact or checkpoint is damaged, incomplete or does not fit this run."""


class RunBusyError(LoopwrightError):
    """Another process is working in this run directory."""


class CheckError(LoopwrightError):
    """A self-check of training failed: going on would give wrong numbers."""


class RequirementError(LoopwrightError):
    """A stage's assessment missed the bar its `require:` section sets."""


class RewardError(LoopwrightError):
    """A reward gave no scores: its function failed, or its server does not answer or answers wrongly."""


class StoreError(LoopwrightError):
    """The feedback store cannot be opened, is damaged, or refuses what was asked of it."""


class ResponderError(LoopwrightError):
    """A model gave no reply: its server does not answer, refuses or answers wrongly."""
