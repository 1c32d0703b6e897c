"""Check a tree of values against a schema and collect all problems."""

import math
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from modalities.common.catalogue import Catalogue, Option, suggest
from pipelines.config.errors import FieldError
from pipelines.config.fields import (
    CATALOGUES,
    bounds_of,
    declared,
    describe,
    evaluate,
    is_required,
    is_within,
    marked,
    show,
)
from pipelines.config.parse import Node, along, place, plain


@dataclass(frozen=True)
class Walk:
    """One pass over a config."""

    problems: list[str]  # grows; each names the place, the key, the expected and the given value
    stored: bool = False  # read old names of keys as the new ones

    def read(self, kind: Any, node: Node, key: str) -> Any:
        """The value of type `kind` at the dotted `key`; None after a problem."""
        if node.broken:
            self.problems.append(node.broken)  # again, so that the mapping around it is not made
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
        expected = " or ".join(map(describe, members))
        return self._refuse(node, f"{key} must be {expected}, got {show(plain(node))}")

    def _sequence(self, kind: Any, node: Node, key: str) -> Any:
        inner, count = get_args(kind), len(node.value)
        if get_origin(kind) is list or inner[-1] is Ellipsis:
            inner = (inner[0],) * count
        if len(inner) != count:
            return self._refuse(node, f"{key} must be {describe(kind)}, got {count} of them")
        values = [self.read(inner[i], item, f"{key}.{i}") for i, item in enumerate(node.value)]
        return values if get_origin(kind) is list else tuple(values)

    def _member(self, kind: Any, name: str, node: Node, key: str) -> Any:
        if name == "base":  # from an override; in a written config it would name files
            return self._refuse(node, f"{_dotted(key, name)} needs another name: base is reserved for base files")
        if node.value is None and is_dataclass(kind):  # an entry with default options: `crd: `
            node = replace(node, value={}, text=None)
        chosen = marked(kind, "catalogue") if is_dataclass(kind) and isinstance(kind, type) else None
        if chosen is not None and chosen.metadata["from_key"]:
            node = _fill(_spell_out(kind, node), chosen.name, name)
        return self.read(kind, node, _dotted(key, name))

    def _dataclass(self, schema: type, node: Node, key: str) -> Any:
        node, before = _spell_out(schema, node), len(self.problems)
        if not isinstance(node.value, dict):
            hint = "; leave it out to use its defaults" if node.value is None else ""
            return self._refuse(node, f"{key} must be a mapping, got {show(plain(node))}{hint}")
        for path, value in getattr(schema, "PLACEHOLDERS", {}).items():
            node = _fill(node, path, value)
        slots, rest, renamed = _field_slots(schema), marked(schema, "options_of"), getattr(schema, "RENAMED", {})
        node = self._renew(node, renamed, slots)
        values = self._values(slots, node, key, renamed)
        others, known = _without(node, slots), [*slots]
        name = rest.metadata["options_of"] if rest else ""
        entry = values.get(name, slots[name].default) if rest else None
        catalogue = CATALOGUES[slots[name].metadata["catalogue"]] if rest else None
        if rest and catalogue and entry in catalogue.names():
            renamed = {**renamed, **catalogue.renamed(entry)}
            own_key = key.rpartition(".")[2] if slots[name].metadata["from_key"] else None
            others = self._renew(_without_outdated(others, name, entry, own_key), catalogue.renamed(entry), {})
            options = _option_slots(catalogue, entry, {*slots, *rest.metadata["supplied"]})
            values[rest.name] = self._values(options, others, key, renamed)
            others, known = _without(others, options), [*known, *options]
        elif rest and (entry is not None or type(None) not in get_args(slots[name].kind)):
            others = _without(others, others.value)  # the wrong name has been reported
        for name, child in others.value.items():
            new = renamed.get(name)
            problem = f"is not known{suggest(name, known)}" if new is None else f"is now {_dotted(key, new)}"
            self._refuse(child, f"{_dotted(key, name)} {problem}")
        if len(self.problems) > before:
            return None
        try:
            return schema(**values)
        except FieldError as error:  # the schema's own checks
            field = along(node, error.key)[-1]  # its nearest ancestor, if it was not written
            places = field.where if field is node and not key else field.places
            self.problems.append(f"{places}: {_dotted(key, error.key)} {error.problem}")
        except ValueError as error:
            self.problems.append(f"{node.places if key else node.where}: {f'{key}: ' * bool(key)}{error}")
        return None

    def _values(self, slots: Mapping[str, "_Slot"], node: Node, key: str, renamed: Mapping[str, str]) -> dict[str, Any]:
        """The given values of the slots, and problems where a required one is absent."""
        given = {name: child for name, child in node.value.items() if name in slots}
        values = {name: self._value(slots[name], child, _dotted(key, name)) for name, child in given.items()}
        for name, slot in slots.items():
            under_old_name = any(old in node.value and new.split(".")[0] == name for old, new in renamed.items())
            if not slot.required or name in given or under_old_name:
                continue
            if is_dataclass(slot.kind):  # report its required fields instead
                values[name] = self.read(slot.kind, Node({}, node.where), _dotted(key, name))
            else:
                self._refuse(node, f"{_dotted(key, name)} must be given{slot.wanted()}")
        return values

    def _value(self, slot: "_Slot", node: Node, key: str) -> Any:
        before, metadata = len(self.problems), slot.metadata
        value = self.read(slot.kind, node, key)
        if "bounds" in metadata and (len(self.problems) == before or not metadata["bounds"]):
            self._refuse_nonfinite(node, key)
        if value == "" != slot.default:
            self._refuse(node, f"{key} must be text that is not empty")
        if len(self.problems) == before and not is_within(metadata, value):
            each = "each " if isinstance(value, list | tuple) else ""
            self._refuse(node, f"{key} must {each}be {bounds_of(metadata)}, got {show(value)}")
        catalogue = CATALOGUES.get(metadata.get("catalogue", ""))
        if catalogue and isinstance(value, str) and value not in catalogue.names():
            self._refuse(node, f"{key}: {catalogue.kind} {value!r} is not known{suggest(value, catalogue.names())}")
        return value

    def _refuse_nonfinite(self, node: Node, key: str) -> None:
        """Reports NaN and infinities, which pass most checks of the entries and only show in the loss."""
        inner = dict(enumerate(node.value)) if isinstance(node.value, list) else node.value
        for name, child in inner.items() if isinstance(inner, dict) else ():
            self._refuse_nonfinite(child, f"{key}.{name}")
        if isinstance(node.value, float) and not math.isfinite(node.value):
            self._refuse(node, f"{key} must be finite, got {show(node.value)}")

    def _renew(self, node: Node, renamed: Mapping[str, str], slots: Mapping[str, "_Slot"]) -> Node:
        """The mapping with old keys of a stored config under their new names, unless these are given too.

        A null is dropped if the new key is an entry of a mapping, because there null means an entry with defaults.
        """
        for old, new in renamed.items() if self.stored else ():
            if (child := node.value.get(old)) is not None:
                node, first = _without(node, [old]), new.partition(".")[0]
                is_entry = first in slots and get_origin(slots[first].kind) is dict and new.count(".") == 1
                node = node if child.value is None and is_entry else _fill(node, new, child)
        return node

    def _refuse(self, node: Node, problem: str) -> None:
        self.problems.append(f"{node.where}: {problem}")


class _Slot(NamedTuple):
    """A key that a mapping may have: a field of its schema, or an option of the entry that it names."""

    kind: Any
    required: bool
    default: Any  # of a text
    metadata: Mapping[str, Any]  # of a field
    wanted: Callable[[], str]  # the end of the message if it is absent


def _field_slots(schema: type) -> dict[str, _Slot]:
    kinds = get_type_hints(schema)
    return {
        item.name: _Slot(kinds[item.name], is_required(item), item.default, item.metadata, partial(_want, schema, item))
        for item in fields(schema)
        if item.init and "options_of" not in item.metadata
    }


def _want(schema: type, item: Field[Any]) -> str:
    names = CATALOGUES[item.metadata["catalogue"]].names() if "catalogue" in item.metadata else []
    expected = f"one of {', '.join(names)}" if names else describe(get_type_hints(schema)[item.name])
    return f": {declared(schema)[item.name].comment or item.name} ({expected})"


def _option_slots(catalogue: Catalogue, entry: str, taken: Collection[str]) -> dict[str, _Slot]:
    def want(option: Option) -> str:
        return f" for {catalogue.kind} {entry!r}: {option.comment or option.name} ({describe(evaluate(option))})"

    finite: dict[str, Any] = {"bounds": {}}  # NaN passes most checks of the entries
    return {
        name: _Slot(evaluate(option), option.default is None, "" if option.default in ("''", '""') else None, finite,
                    partial(want, option))
        for name, option in catalogue.options(entry).items()
        if name not in taken
    }  # fmt: skip


def _without(node: Node, names: Collection[str]) -> Node:
    return replace(node, value={name: child for name, child in node.value.items() if name not in names})


def _without_outdated(options: Node, field: str, entry: str, key: str | None) -> Node:
    """The options without those that files gave to another entry; `key` is the default name of an entry, if any."""
    return _without(options, [
        name for name, option in options.value.items()
        if any(other == field and (old or key or entry) != entry for other, old in option.outdated)
    ])  # fmt: skip


def _spell_out(schema: type, node: Node) -> Node:
    """The mapping for which a plain name stands."""
    chosen = marked(schema, "catalogue") or marked(schema, "short")
    if chosen is not None and isinstance(node.value, str):
        return replace(node, value={chosen.name: node})
    if chosen is not None and node.short is not None and isinstance(node.value, dict):
        return replace(node, value={chosen.name: node.short, **node.value}, short=None)
    return node


def _fill(node: Node, key: str, value: Any) -> Node:
    """The node with a value (plain or a node) at a dotted key, unless the key is given."""
    if not isinstance(node.value, dict):
        return node
    name, _, rest = key.partition(".")
    made = value if isinstance(value, Node) and not rest else place({} if rest else value, node.where)
    inner = node.value.get(name, made)
    return replace(node, value={**node.value, name: _fill(inner, rest, value) if rest else inner})


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
