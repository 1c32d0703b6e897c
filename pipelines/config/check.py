"""Check a tree of values against a schema and collect all problems."""

import math
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from modalities.common.catalogue import suggest
from pipelines.config.errors import FieldError
from pipelines.config.fields import (
    CATALOGUES,
    bounds_of,
    choice_field,
    declared,
    describe,
    evaluate,
    is_required,
    is_within,
    options_field,
    short_field,
    show,
)
from pipelines.config.parse import Node, place, plain


@dataclass(frozen=True)
class Walk:
    """One pass over a config."""

    problems: list[str]  # grows; each names the place, the key, the expected and the given value
    stored: bool = False  # read old names of keys as the new ones

    def read(self, kind: Any, node: Node, key: str) -> Any:
        """The value of type `kind` at the dotted `key`; None after a problem."""
        if node.broken:
            return None
        origin, inner = get_origin(kind), get_args(kind)
        value: Any = plain(node)
        if is_dataclass(kind) and isinstance(kind, type):
            value = self._dataclass(kind, node, key)
        elif origin in (Union, types.UnionType):
            value = self._union(inner, node, key)
        elif origin is dict and (node.value is None or isinstance(node.value, dict)):
            value = {name: self._member(inner[1], name, child, key) for name, child in (node.value or {}).items()}
        elif origin in (list, tuple) and isinstance(node.value, list):
            value = self._sequence(kind, node, key)
        elif kind is not Any:
            value = self._scalar(kind, node, key)
        return value

    def _scalar(self, kind: Any, node: Node, key: str) -> Any:
        if kind is str and node.value is None:  # nobody means the text "null" or ""
            return self._refuse(node, f"{key} must be text, got {'nothing' if node.text == '' else 'null'}")
        for value in (node.value, node.text):
            if get_origin(kind) is Literal:
                if any(type(value) is type(known) and value == known for known in get_args(kind)):
                    return value
            elif kind is str and type(value) is str:
                # not every shell expands a path in `output=~/x`
                return str(Path(value).expanduser()) if value.startswith("~/") else value
            elif kind is type(value) and kind in (int, float, bool):
                return value
            elif kind is float and type(value) is int:
                return float(value)
        quotes = "; put it in quotes" if kind is str and type(node.value) in (int, float, bool) else ""
        return self._refuse(node, f"{key} must be {describe(kind)}, got {show(plain(node))}{quotes}")

    def _union(self, members: tuple[Any, ...], node: Node, key: str) -> Any:
        if node.value is None and type(None) in members:
            return None
        kinds = [member for member in members if member is not type(None)]
        if len(kinds) == 1 and (is_dataclass(kinds[0]) or get_origin(kinds[0]) in (dict, list, tuple)):
            return self.read(kinds[0], node, key)  # its inner problems are more specific
        for attempt in (replace(node, text=None), node):
            for kind in kinds:
                trial = Walk([], self.stored)
                value = trial.read(kind, attempt, key)
                if not trial.problems:
                    return value
        return self._refuse(
            node, f"{key} must be {' or '.join(describe(member) for member in members)}, got {show(plain(node))}"
        )

    def _sequence(self, kind: Any, node: Node, key: str) -> Any:
        inner, count = get_args(kind), len(node.value)
        if get_origin(kind) is list or inner[-1] is Ellipsis:
            inner = (inner[0],) * count
        if len(inner) != count:
            return self._refuse(node, f"{key} must be {describe(kind)}, got {count} of them")
        values = [
            self.read(each, item, f"{key}.{i}") for i, (each, item) in enumerate(zip(inner, node.value, strict=True))
        ]
        return values if get_origin(kind) is list else tuple(values)

    def _member(self, kind: Any, name: str, node: Node, key: str) -> Any:
        if name == "base":  # from an override; in a written config it would name files
            return self._refuse(node, f"{_dotted(key, name)} needs another name: base is reserved for base files")
        if node.value is None and is_dataclass(kind):  # an entry with default options: `crd: `
            node = replace(node, value={}, text=None)
        chosen = choice_field(kind) if is_dataclass(kind) and isinstance(kind, type) else None
        if chosen is not None and chosen.metadata["from_key"]:
            node = _named(_spell_out(kind, node), chosen.name, name)
        return self.read(kind, node, _dotted(key, name))

    def _dataclass(self, schema: type, node: Node, key: str) -> Any:
        node, before = _spell_out(schema, node), len(self.problems)
        if not isinstance(node.value, dict):
            hint = "; leave it out to use its defaults" if node.value is None else ""
            return self._refuse(node, f"{key} must be a mapping, got {show(plain(node))}{hint}")
        for path, value in getattr(schema, "PLACEHOLDERS", {}).items():
            node = _fill(node, path, value)
        kinds, rest, renamed = get_type_hints(schema), options_field(schema), getattr(schema, "RENAMED", {})
        node = self._renew(node, renamed, kinds)
        known = {item.name: item for item in fields(schema) if item is not rest and item.init}
        values = {
            name: self._field(known[name], kinds[name], child, _dotted(key, name))
            for name, child in node.value.items()
            if name in known
        }
        for name, item in known.items():
            if name not in values and is_required(item) and not _is_under_old_name(name, node, renamed):
                values[name] = self._absent(schema, item, kinds[name], node, _dotted(key, name))
        gone = set(known) | (_lapsed(node, rest.metadata["options_of"]) if rest else set())
        others = replace(node, value={name: child for name, child in node.value.items() if name not in gone})
        if rest is None:
            self._unknown(others, [*known], key, renamed)
        else:
            name_field = known[rest.metadata["options_of"]]
            chosen = values.get(name_field.name, name_field.default)
            if isinstance(chosen, str):
                values[rest.name] = self._options(schema, chosen, others, key)
            elif type(None) in get_args(kinds[name_field.name]):  # no entry is chosen; a wrong name has been reported
                self._unknown(others, [*known], key, renamed)
        if len(self.problems) > before:
            return None
        try:
            return schema(**values)
        except FieldError as error:  # the schema's own checks
            field = _descend(node, error.key)
            places = field.where if field is node and not key else field.places
            self.problems.append(f"{places}: {_dotted(key, error.key)} {error.problem}")
        except ValueError as error:
            self.problems.append(f"{node.places if key else node.where}: {f'{key}: ' * bool(key)}{error}")
        return None

    def _field(self, item: Field[Any], kind: Any, node: Node, key: str) -> Any:
        before = len(self.problems)
        value = self.read(kind, node, key)
        if value == "" != item.default:
            self._refuse(node, f"{key} must be text that is not empty")
        if len(self.problems) == before and "bounds" in item.metadata:
            self._refuse_nonfinite(node, key)
        if len(self.problems) == before and not is_within(item, value):
            each = "each " if isinstance(value, list | tuple) else ""
            self._refuse(node, f"{key} must {each}be {bounds_of(item)}, got {show(value)}")
        if "catalogue" in item.metadata and isinstance(value, str):
            catalogue = CATALOGUES[item.metadata["catalogue"]]
            if value not in catalogue.names():
                self._refuse(node, f"{key}: {catalogue.kind} {value!r} is not known{suggest(value, catalogue.names())}")
        return value

    def _absent(self, schema: type, item: Field[Any], kind: Any, node: Node, key: str) -> Any:
        if is_dataclass(kind):  # report its required fields instead
            return self.read(kind, Node({}, node.where), key)
        wanted = CATALOGUES[item.metadata["catalogue"]].names() if "catalogue" in item.metadata else []
        expected = f"one of {', '.join(wanted)}" if wanted else describe(kind)
        comment = declared(schema)[item.name].comment or item.name
        return self._refuse(node, f"{key} must be given: {comment} ({expected})")

    def _options(self, schema: type, chosen: str, node: Node, key: str) -> dict[str, Any]:
        rest = options_field(schema)
        assert rest is not None
        own = {item.name: item for item in fields(schema) if item is not rest}
        catalogue = CATALOGUES[own[rest.metadata["options_of"]].metadata["catalogue"]]
        if chosen not in catalogue.names():
            return {}  # the name has been reported
        taken = {*own, *rest.metadata["supplied"]}
        options = {name: option for name, option in catalogue.options(chosen).items() if name not in taken}
        renamed = {**getattr(schema, "RENAMED", {}), **catalogue.renamed(chosen)}
        node = self._renew(node, catalogue.renamed(chosen), {})
        self._unknown(
            replace(node, value={name: child for name, child in node.value.items() if name not in options}),
            [*own, *options],
            key,
            renamed,
        )
        for name, option in options.items():
            if option.default is None and name not in node.value and not _is_under_old_name(name, node, renamed):
                expected = f"{option.comment or name} ({describe(evaluate(option))})"
                self._refuse(node, f"{_dotted(key, name)} must be given for {catalogue.kind} {chosen!r}: {expected}")
        given = {name: child for name, child in node.value.items() if name in options}
        for name, child in given.items():
            self._refuse_nonfinite(child, _dotted(key, name))
        values = {name: self.read(evaluate(options[name]), child, _dotted(key, name)) for name, child in given.items()}
        for name, value in values.items():
            if value == "" and options[name].default not in ("''", '""'):
                self._refuse(given[name], f"{_dotted(key, name)} must be text that is not empty")
        return values

    def _refuse_nonfinite(self, node: Node, key: str) -> None:
        """Reports NaN and infinities, which pass most checks of the entries and only show in the loss."""
        inner = dict(enumerate(node.value)) if isinstance(node.value, list) else node.value
        for name, child in inner.items() if isinstance(inner, dict) else ():
            self._refuse_nonfinite(child, f"{key}.{name}")
        if isinstance(node.value, float) and not math.isfinite(node.value):
            self._refuse(node, f"{key} must be finite, got {show(node.value)}")

    def _renew(self, node: Node, renamed: Mapping[str, str], kinds: Mapping[str, Any]) -> Node:
        """The mapping with old keys of a stored config under their new names; unchanged for other configs."""
        for old, new in renamed.items() if self.stored else ():
            node = _move(node, old, new, kinds)
        return node

    def _unknown(self, others: Node, known: list[str], key: str, renamed: Mapping[str, str]) -> None:
        for name, node in others.value.items():
            new = renamed.get(name)
            problem = f"is not known{suggest(name, known)}" if new is None else f"is now {_dotted(key, new)}"
            self._refuse(node, f"{_dotted(key, name)} {problem}")

    def _refuse(self, node: Node, problem: str) -> None:
        self.problems.append(f"{node.where}: {problem}")


def _spell_out(schema: type, node: Node) -> Node:
    chosen = short_field(schema)
    if chosen is not None and isinstance(node.value, str):
        return replace(node, value={chosen.name: node})
    if chosen is not None and node.short is not None and isinstance(node.value, dict):
        return replace(node, value={chosen.name: node.short, **node.value}, short=None)
    return node


def _named(node: Node, field: str, name: str) -> Node:
    """The entry with its key as the default name; `lapsed` records the key if the entry has another name now."""
    if not isinstance(node.value, dict):
        return node
    before, beside = node.lapsed.get(field, (None, frozenset[str]()))
    own = node.value.get(field, Node(name, node.where))
    lapsed = {**node.lapsed, field: (name, beside)} if before is None and own.value != name else node.lapsed
    return replace(node, value={field: own, **node.value}, lapsed=lapsed)


def _lapsed(node: Node, field: str) -> frozenset[str]:
    """Keys that older files gave to the entry that `field` named before; empty if it named none."""
    before, beside = node.lapsed.get(field, (None, frozenset[str]()))
    return frozenset() if before is None else beside


def _fill(node: Node, key: str, value: Any) -> Node:
    """The node with a value (plain or a node) at a dotted key, unless the key is given."""
    if not isinstance(node.value, dict):
        return node
    name, _, rest = key.partition(".")
    made = value if isinstance(value, Node) and not rest else place({} if rest else value, node.where)
    inner = node.value.get(name, made)
    return replace(node, value={**node.value, name: _fill(inner, rest, value) if rest else inner})


def _is_under_old_name(name: str, node: Node, renamed: Mapping[str, str]) -> bool:
    """True if the mapping gives the field `name`, or a part of it, under an old key."""
    return any(old in node.value and new.partition(".")[0] == name for old, new in renamed.items())


def _move(node: Node, old: str, new: str, kinds: Mapping[str, Any]) -> Node:
    """The mapping with the value of `old` moved to the dotted key `new`, unless `new` is given.

    A null is dropped if `new` is an entry of a mapping, because there null means an entry with default options.
    """
    if old not in node.value:
        return node
    child, first = node.value[old], new.partition(".")[0]
    moved = replace(node, value={name: other for name, other in node.value.items() if name != old})
    is_entry = get_origin(kinds.get(first)) is dict and new.count(".") == 1
    return moved if child.value is None and is_entry else _fill(moved, new, child)


def _descend(node: Node, key: str) -> Node:
    """The node at a dotted key, or its nearest ancestor that was written."""
    for part in key.split("."):
        if not isinstance(node.value, dict) or part not in node.value:
            break
        node = node.value[part]
    return node


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
