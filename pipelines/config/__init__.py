"""Configs: a frozen dataclass is the schema, YAML and `key=value` are the content. All problems are reported at once.

The fields of a schema are int, float, bool, str, `X | None`, Literal, tuple, list, dict[str, X], frozen dataclasses and
the marked fields `choice`, `options_of`, `number` and `runtime_only`. A config may leave out a nested dataclass without
required fields. A schema may have three class variables:

- `PLACEHOLDERS` maps dotted keys to plain values, which stand in for fields that the code sets.
- `DERIVED` maps the dotted key of a field to what sets it. A base file may give such a field; the value is ignored.
- `RENAMED` maps an old key to the dotted key that replaces it, both relative to the dataclass. The old key is an
  error that names the new one. An entry of a catalogue may have `RENAMED` for its options.
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
