"""Configs: frozen dataclasses are the schema, YAML and `key=value` the content; every problem is found before work.

A schema's fields are int, float, bool, str, `X | None`, Literal, tuple, list, dict[str, X], frozen dataclasses, and the
marked ones: `choice`, `options_of`, `number`, `runtime_only`. A config may leave out a nested dataclass without a
default if that has no required field. Three class variables of a schema say more:

- `PLACEHOLDERS` holds plain values by dotted key. They stand where a config leaves out what the code sets.
- `DERIVED` says by dotted key what sets a field. A base may name such a field, and its value is not used.
- `RENAMED` maps a key of an earlier version to the dotted key that replaces it, both relative to the dataclass. The
  old key is refused with the new one named. An entry of a catalogue may have `RENAMED` for its options.
"""

from pipelines.config.errors import ConfigError, FieldError
from pipelines.config.fields import choice, number, options_of, runtime_only
from pipelines.config.loading import (
    at,
    differences,
    leaves,
    load,
    renew,
    to_dict,
    to_plain,
    to_yaml,
    within,
    without,
)

__all__ = [
    "ConfigError",
    "FieldError",
    "at",
    "choice",
    "differences",
    "leaves",
    "load",
    "number",
    "options_of",
    "renew",
    "runtime_only",
    "to_dict",
    "to_plain",
    "to_yaml",
    "within",
    "without",
]
