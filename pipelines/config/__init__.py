"""Configs: frozen dataclasses are the schema, YAML and `key=value` the content; every problem is found before work.

A schema's fields are int, float, bool, str, `X | None`, Literal, tuple, list, dict[str, X], frozen dataclasses, and the
marked ones: `choice`, `options_of`, `number`, `runtime_only`. A nested dataclass without a default may be left out of a config
as long as it has no required field. A schema's `PLACEHOLDERS` holds plain values by dotted key, which stand where a config
leaves out what code sets; its `DERIVED` says by dotted key what sets a field: only a base may speak of it, and in vain.
Its `RENAMED` maps a key that an earlier version had to the dotted key that replaces it, both relative to the dataclass:
the old key is refused with the new one named. An entry of a catalogue may have `RENAMED` for its options.
"""

from pipelines.config.errors import ConfigError, FieldError
from pipelines.config.fields import choice, number, options_of, runtime_only
from pipelines.config.loading import (
    at,
    differences,
    leaves,
    load,
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
    "runtime_only",
    "to_dict",
    "to_plain",
    "to_yaml",
    "within",
    "without",
]
