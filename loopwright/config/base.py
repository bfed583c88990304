"""The base of every config class. Each lives beside the code it configures and checks itself."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic_core import to_jsonable_python


class Config(BaseModel):
    """Frozen, and strict: an unknown key is an error, defaults are validated too.

    A setting that the user wrote and that has no effect is an error. Validators learn what was written
    from `self.model_fields_set`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_resolved_file_were_not_written(cls, values: Any, info: ValidationInfo) -> Any:
        """A resolved file spells out the defaults; nobody wrote those, so no validator may blame them."""
        if not (isinstance(values, dict) and info.context and info.context.get("resolved")):
            return values
        return {key: value for key, value in values.items() if not cls._is_default(key, value)}

    @classmethod
    def _is_default(cls, key: str, value: Any) -> bool:
        field = cls.model_fields.get(key)
        if field is None or field.is_required():
            return False
        return bool(to_jsonable_python(field.get_default(call_default_factory=True, validated_data={})) == value)

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_not_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Without this, `max_steps: yes` would mean one step."""
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            accepted = {annotation, *get_args(annotation)}
            if accepted & {int, float} and bool not in accepted:
                raise ValueError(f"{str(value).lower()} is not a number")
        return value
