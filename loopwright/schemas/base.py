"""The base of every record that crosses a file, a process or a network."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and strict about its keys: a misspelt field is an error, not a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")
