"""Merge base files, files and overrides into one tree, and resolve `${...}`."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from modalities.common.catalogue import suggest
from pipelines.config.errors import ConfigError
from pipelines.config.parse import Node, along, parse, place, plain, scalar

GIVEN = "config"  # the place of values that were given as a mapping, in messages
LONGEST = 200  # most characters of a value in a message


def read(path: Path, problems: list[str]) -> Node:
    """A file merged over its base files, later ones over earlier ones.

    `base` is a path or a list of paths, relative to the file. Every mapping in the file may have a `base` too.

    Raises:
        ConfigError: a file is missing, unreadable, not YAML, not a mapping, or based on itself.
    """
    return _read(path, path.as_posix(), (), problems)


def read_plain(values: Mapping[str, Any], problems: list[str]) -> Node:
    """A config given as plain values, merged over its base files, whose paths are relative to the working folder.

    Raises:
        ConfigError: a base file cannot be read; see `read`.
    """
    content = place(values, GIVEN)
    return _over_bases(replace(content, value={"base": Node([], GIVEN), **content.value}), Path(), (), problems)


def read_override(text: str, problems: list[str], root: Node) -> Node:
    """The tree of one override of `root`: `a.b=value`, where the value is YAML, or `~a.b`.

    Raises:
        ConfigError: the text is neither.
    """
    where = f"override {text}"
    key, equals, value = text.partition("=")
    names = key.removeprefix("~").split(".")
    if text.startswith("~") == bool(equals) or not all(names):
        raise ConfigError([f"{where}: must be key=value to set or ~key to remove, as in train.lr=0.1 or ~train.lr"])
    if equals:
        node = parse(value, where, problems, lines=False)
        node = node if isinstance(node.value, dict | list) else replace(node, text=value)
        path = along(root, key)
        if node.value == {} and len(path) > len(names) and path[-1].value:
            problems.append(f"{where}: an empty mapping changes nothing (mappings merge); ~{key}.NAME removes an entry")
    else:
        node, names[-1] = Node(None, where), f"~{names[-1]}"
    for name in reversed(names):
        node = Node({name: node}, where)
    return node


def merge(first: Node, later: Node, problems: list[str]) -> Node:
    """`later` over `first`: mappings are merged, `~key` removes an entry, any other value replaces the old one.

    A merged mapping has the place of the later file. Values of `first` from files (not overrides) that stand beside a
    text that `later` changes record its key and the old text (None if there was none) in `outdated`: if the text names
    an entry, these values are options of the old entry.
    """
    if not isinstance(later.value, dict):
        return later
    if not isinstance(first.value, dict):
        first = Node({}, later.where, short=first if isinstance(first.value, str) else first.short)
    changed = set()
    for name, node in later.value.items():
        before = first.value.get(name, first.short or Node(None, ""))
        if isinstance(node.value, str) and (before.value is None or isinstance(before.value, str)):
            changed |= {(name, before.value)} if before.value != node.value else set()
    joined = {
        name: replace(node, outdated=node.outdated | changed) if node.is_from_file else node
        for name, node in first.value.items()
    }
    for name, node in later.value.items():
        if name.startswith("~"):
            if joined.pop(name[1:], None) is None:
                problems.append(f"{node.where}: there is no {name[1:]!r} to remove{suggest(name[1:], list(joined))}")
        else:
            joined[name] = merge(joined.get(name, Node(None, node.where)), node, problems)
    where, touched = (later.where, ()) if later.is_from_file else (first.where, (*first.touched, later.where))
    return Node(joined, where, short=later.short or first.short, touched=touched, outdated=later.outdated)


def resolve(root: Node, problems: list[str]) -> Node:
    """The tree with every `${...}` replaced by the value it refers to, as OmegaConf reads it."""
    if "${" not in str(plain(root)):
        return root
    from omegaconf import OmegaConf  # imported here: it takes longer than the rest of the start
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    def refuse(node: Node, problem: str) -> Node:
        problems.append(f"{node.where}: {problem}")
        return replace(node, value=None, broken=problems[-1])

    def check(node: Node, keys: tuple[str | int, ...]) -> Node:
        try:
            OmegaConf.create([node.value])
        except GrammarParseError:
            problem = "must contain complete references: ${key} or ${oc.env:NAME,default}"
        except RecursionError:
            problem = "nests ${...} too deep"
        else:
            return node
        return refuse(node, f"{_shorten(repr(node.value))} {problem}")

    def look_up(node: Node, keys: tuple[str | int, ...]) -> Node:
        try:
            value = reduce(operator.getitem, keys, container)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except (OmegaConfBaseException, RecursionError) as error:
            reason = str(error).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ")
            hint = "; it must be set in a file or override" if reason.startswith("Interpolation key") else ""
            return refuse(node, f"{_shorten(node.value)} cannot be resolved: {_shorten(reason)}{hint}")
        if isinstance(value, str) and "oc.env:" in node.value:  # environment variables are text
            return Node(scalar(value), node.where, text=value)
        return place(value, node.where)

    root = _each_reference(root, check)
    container: Any = OmegaConf.create(plain(root))
    return _each_reference(root, look_up)


def _each_reference(node: Node, change: Callable[..., Node], keys: tuple[str | int, ...] = ()) -> Node:
    """The tree with `change(node, keys)` for every node whose text contains `${`."""
    if isinstance(node.value, dict):
        inner = {key: _each_reference(child, change, (*keys, key)) for key, child in node.value.items()}
        return replace(node, value=inner)
    if isinstance(node.value, list):
        return replace(node, value=[_each_reference(item, change, (*keys, i)) for i, item in enumerate(node.value)])
    return change(node, keys) if isinstance(node.value, str) and "${" in node.value else node


def _read(path: Path, where: str, above: tuple[Path, ...], problems: list[str]) -> Node:
    """One file over its bases; `where` is the place that names it, `above` the files that lead to it."""
    shown = path.as_posix()
    role = f"the base {shown} " if above else ""
    try:
        if path.exists() and not (path.is_file() or path.is_dir() or (not above and _is_piped(path))):
            raise ConfigError([f"{where}: {role}cannot be read: it is a device, a pipe or a socket, not a file"])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{where}: {role}cannot be read: {reason}"]) from error
    if path.resolve() in above:
        raise ConfigError([f"{where}: {role}is based on itself"])
    node = parse(text, shown, problems)
    if node.value is not None and not isinstance(node.value, dict):
        raise ConfigError([f"{shown}: must be a mapping of settings, got {plain(node)!r}"])
    content = dict(node.value or {})
    return _over_bases(Node({"base": Node([], shown), **content}, shown), path, (*above, path.resolve()), problems)


def _is_piped(path: Path) -> bool:
    """True if another program writes the file while it is read, as in `crossmodal transfer <(...)`."""
    return path.is_fifo() and path.parent.as_posix() in ("/dev", "/dev/fd", "/proc/self/fd")


def _over_bases(node: Node, path: Path, above: tuple[Path, ...], problems: list[str]) -> Node:
    """A mapping of the file at `path`, and each mapping in it, merged over its base files."""
    if not isinstance(node.value, dict):
        return node
    inner = {name: _over_bases(child, path, above, problems) for name, child in node.value.items() if name != "base"}
    content = replace(node, value=inner)
    if "base" not in node.value:
        return content
    composed = Node({}, node.where)
    for base in _bases(node.value["base"]):
        beside = Path(os.path.normpath(path.parent / base.value))
        composed = merge(composed, _read(beside, base.where, above, problems), problems)
    return merge(composed, content, problems)


def _bases(node: Node) -> Sequence[Node]:
    bases = node.value if isinstance(node.value, list) else [node]
    for base in bases:
        if not isinstance(base.value, str):
            raise ConfigError([f"{base.where}: base must be the path of a config or a list of them, got {plain(base)}"])
    return bases


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
