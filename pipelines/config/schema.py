"""The JSON Schema of a pipeline's config, with which editors complete and check YAML files."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import ModuleType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from modalities.common.catalogue import Catalogue
from pipelines.config import to_plain
from pipelines.config.fields import CATALOGUES, declared, evaluate, group_of, is_required, marked

DRAFT = "http://json-schema.org/draft-07/schema#"  # the one that YAML plug-ins of editors know best
REFERENCE = {"type": "string", "pattern": r"\$\{"}  # ${train.lr} stands for any value
BOUNDS = {"at least": "minimum", "above": "exclusiveMinimum", "at most": "maximum", "below": "exclusiveMaximum"}
PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}
Schema = dict[str, Any]


def schema_of(name: str, pipeline: ModuleType) -> Schema:
    """The schema of a pipeline's config files.

    A field that the config must have is not required here, because `base:` may give it.

    Args:
        name: of the pipeline.
        pipeline: its module, which has `Config`.
    """
    hidden = {*getattr(pipeline.Config, "PLACEHOLDERS", ()), *getattr(pipeline.Config, "DERIVED", ())}
    return {"$schema": DRAFT, "title": f"crossmodal {name}", **_mapping(pipeline.Config, hidden=hidden)}


def _mapping(schema: type, *, key: str | None = None, hidden: set[str] | None = None) -> Schema:
    """The schema of a dataclass; `key` is the name of the mapping's entry, where that is its default name."""
    properties: dict[str, Schema] = {"base": {"type": "string", "description": "another file to start from"}}
    hints = get_type_hints(schema)
    for item in fields(schema):
        if "options_of" not in item.metadata and item.name not in (hidden or ()):
            properties[item.name] = _field(item, hints[item.name], declared(schema)[item.name].comment)
    chosen = marked(schema, "catalogue")
    if chosen is None or marked(schema, "options_of") is None:
        short = marked(schema, "short")  # a plain word is short for a mapping with this field
        whole = _object(properties)
        return whole if short is None else {"anyOf": [_type(hints[short.name]), whole]}
    catalogue = CATALOGUES[chosen.metadata["catalogue"]]
    supplied = next(item.metadata["supplied"] for item in fields(schema) if "options_of" in item.metadata)
    alone = key in catalogue.names() or not is_required(chosen)
    names = [key] if key in catalogue.names() else catalogue.names()
    entries = [_entry(catalogue, name, chosen, properties, supplied, alone=alone) for name in names]
    partial = [] if key in catalogue.names() else [_partial(chosen, entries)]
    return {"anyOf": [{"enum": catalogue.names()}, *entries, *partial]}


def _entry(
    catalogue: Catalogue,
    name: str,
    chosen: Field[Any],
    properties: dict[str, Schema],
    supplied: tuple[str, ...],
    *,
    alone: bool,
) -> Schema:
    """The schema of a mapping that gives the options of one entry; `alone`: it need not name it."""
    own = dict(properties)
    own[chosen.name] = {"const": name, "description": catalogue.summary(name)}
    for option in catalogue.options(name).values():
        if option.name not in supplied:
            group = group_of(option)
            kind = _mapping(group) if group else _type(evaluate(option))
            own[option.name] = _anything_by_reference(kind) | {"description": option.comment}
    return _object(own) | ({} if alone else {"required": [chosen.name]})


def _partial(chosen: Field[Any], entries: list[Schema]) -> Schema:
    """The schema of a mapping whose `base` names the entry: it may have the options of any."""
    every: dict[str, Schema] = {option: {} for entry in entries for option in entry["properties"]}
    return _object(every) | {"not": {"required": [chosen.name]}}


def _field(item: Field[Any], kind: Any, comment: str) -> Schema:
    inner = _type(kind)
    if "catalogue" in item.metadata:
        inner = {"enum": CATALOGUES[item.metadata["catalogue"]].names()}
    bounds = {BOUNDS[word]: bound for word, bound in item.metadata.get("bounds", {}).items()}
    for part in [inner, *inner.get("anyOf", []), *([inner["items"]] if "items" in inner else [])]:
        if part.get("type") in ("integer", "number"):
            part.update(bounds)
    described = _anything_by_reference(inner) | {"description": comment}
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if default is not MISSING and not is_dataclass(default):
        described["default"] = to_plain(default)
    return described


def _type(kind: Any) -> Schema:
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _mapping(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(member) for member in inner]}
    if origin is Literal:
        return {"enum": [*inner]}
    if origin is dict:
        return _by_name(inner[1])
    if origin in (list, tuple):
        several = [member for member in inner if member is not Ellipsis]
        alike = len({*map(str, several)}) == 1
        return {"type": "array", "items": _type(several[0]) if alike else {"anyOf": [_type(each) for each in several]}}
    return {"type": PLAIN[kind]} if kind in PLAIN else {"type": "array"} if kind in (list, tuple) else {}


def _by_name(kind: Any) -> Schema:
    """The schema of a mapping of names; the key of an entry may choose what it is. Null means its defaults."""
    nothing: Schema = {"type": "null"}
    chosen = marked(kind, "catalogue") if isinstance(kind, type) and is_dataclass(kind) else None
    known: Mapping[str, Schema] = {}
    if chosen is not None and chosen.metadata.get("from_key"):
        names = CATALOGUES[chosen.metadata["catalogue"]].names()
        known = {name: {"anyOf": [nothing, _mapping(kind, key=name)]} for name in names}
    return {"type": "object", "properties": dict(known), "additionalProperties": {"anyOf": [nothing, _type(kind)]}}


def _anything_by_reference(kind: Schema) -> Schema:
    return {"anyOf": [kind, REFERENCE]} if kind else {}


def _object(properties: dict[str, Schema]) -> Schema:
    """A mapping of these keys, or of a key with ~ before it, which takes a value of `base` away."""
    return {"type": "object", "properties": properties, "patternProperties": {"^~": {}}, "additionalProperties": False}
