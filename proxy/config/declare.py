"""How a setting is declared: a pydantic field with a default, one sentence, a unit and whether a reload applies it.

From these declarations come `config/reference.yaml`, `config/schema.json`, `switchboard config --help`, the
checks at load and the answer to "is this applied by a reload?".  A duration is a number of seconds or text with
a PostgreSQL unit ("500ms", "30s", "5min", "2h", "1d"); 0 switches a timeout off.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*")


def seconds(value: object) -> object:
    """`"5min"` -> 300.0; numbers pass.  Units as in the PostgreSQL manual, "Parameter Names and Values"."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if not match:
            raise ValueError("expected a duration such as 30, 500ms, 30s, 5min, 2h or 1d")
        return float(match[1]) * UNITS[match[2] or "s"]
    return value


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0), WithJsonSchema({"anyOf": [
    {"type": "number", "minimum": 0}, {"type": "string", "pattern": rf"^{_DURATION.pattern}$"}]})]


def setting(default: Any, text: str, *, unit: str | None = None, reload: bool = True, **more: Any) -> Any:
    """One setting: its default, one sentence, its unit, and whether a reload applies it."""
    extra: dict[str, Any] = {"unit": unit, "reload": reload}
    if isinstance(default, (list, dict)) or callable(default):
        factory = default if callable(default) else (lambda: type(default)(default))
        return Field(default_factory=factory, description=text, json_schema_extra=extra, **more)
    return Field(default=default, description=text, json_schema_extra=extra, **more)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def several(value: object) -> object:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(several)]


def every_field_optional(model: type[Section], name: str, text: str) -> type[Section]:
    """The same settings once more, unset: each stays declared once."""
    fields: dict[str, Any] = {}
    for key, info in model.model_fields.items():
        kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        fields[key] = (kind | None, Field(default=None, description=info.description, json_schema_extra=info.json_schema_extra))
    return create_model(name, __base__=Section, __doc__=text, **fields)
