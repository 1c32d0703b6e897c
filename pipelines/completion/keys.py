"""The dotted keys of a config and their values, read from its JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any


def words_of(schema: Mapping[str, Any]) -> list[str]:
    """Words such as "train.lr=", "train.optimiser=sgd", and "views." where names of the user follow."""
    return sorted({*_words(schema, "")})


def _words(schema: Mapping[str, Any], key: str) -> Iterator[str]:
    members = schema.get("anyOf", [])
    is_mapping = any(_is_mapping(member) for member in members)
    for member in members:
        if not is_mapping or _is_mapping(member) or "enum" in member:  # not null, nor a reference, for a whole mapping
            yield from _words(member, key)
    for name, inner in schema.get("properties", {}).items():
        if name != "base":  # which only files can give
            yield from _words(inner, f"{key}.{name}" if key else name)
    if key and schema.get("additionalProperties"):
        yield f"{key}."
    if key and schema.get("type") != "object" and "anyOf" not in schema:
        yield f"{key}="
        values = ["true", "false"] if schema.get("type") == "boolean" else schema.get("enum", [])
        values = [schema["const"], *values] if "const" in schema else values
        yield from (f"{key}={value}" for value in values if isinstance(value, str))


def _is_mapping(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" or any(_is_mapping(member) for member in schema.get("anyOf", []))
