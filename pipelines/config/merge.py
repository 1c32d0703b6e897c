"""Merge base files, files and overrides into one tree, and resolve `${...}`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modalities.common.catalogue import suggest
from pipelines.config.errors import ConfigError
from pipelines.config.parse import Node, parse, place, plain, scalar

LONGEST = 200  # most characters of a value in a message


def read(path: Path, problems: list[str]) -> Node:
    """A file merged over its base files, later ones over earlier ones.

    `base` is a path or a list of paths, relative to the file. Every mapping in the file may have a `base` too.

    Raises:
        ConfigError: a file is missing, unreadable, not YAML, not a mapping, or based on itself.
    """
    return _read(path, path.as_posix(), (), problems)


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
        if node.value == {} and (given := find(root, names)) is not None and given.value:
            problems.append(f"{where}: an empty mapping changes nothing (mappings merge); ~{key}.NAME removes an entry")
    else:
        node, names[-1] = Node(None, where), f"~{names[-1]}"
    for name in reversed(names):
        node = Node({name: node}, where)
    return node


def merge(first: Node, later: Node, problems: list[str], *, keep_place: bool = False) -> Node:
    """`later` over `first`: mappings are merged, `~key` removes an entry, any other value replaces the old one.

    With `keep_place`, a merged mapping has the place of `first` and lists `later` in `touched`; otherwise it has the
    place of `later`. For each text that changed, `lapsed` records the old text and the keys that files (not overrides)
    gave beside it. If the text is the name of an entry, these keys are options of the old entry.
    """
    if not isinstance(later.value, dict):
        return later
    if not isinstance(first.value, dict):
        first = Node({}, later.where, short=first if isinstance(first.value, str) else first.short)
        keep_place = False
    where, touched = (first.where, (*first.touched, later.where)) if keep_place else (later.where, ())
    joined = dict(first.value)
    for name, node in later.value.items():
        if name.startswith("~"):
            if joined.pop(name[1:], None) is None:
                problems.append(f"{node.where}: there is no {name[1:]!r} to remove{suggest(name[1:], list(joined))}")
        else:
            joined[name] = merge(joined.get(name, Node(None, node.where)), node, problems, keep_place=keep_place)
    return Node(joined, where, short=later.short or first.short, touched=touched, lapsed=_lapse(first, later))


def _lapse(first: Node, later: Node) -> dict[str, tuple[str | None, frozenset[str]]]:
    """For each text of `first` that `later` changes: the old text, and the older keys beside it that `later` lacks."""
    lapsed = {name: (before, beside.difference(later.value)) for name, (before, beside) in first.lapsed.items()}
    files = [name for name, node in first.value.items() if not node.touched and not node.where.startswith("override ")]
    beside = frozenset(files).difference(later.value)
    for name, node in later.value.items():
        before = first.value.get(name, first.short)
        known = None if before is None else before.value
        if isinstance(node.value, str) and (known is None or (isinstance(known, str) and known != node.value)):
            lapsed[name] = (known, beside)
    return lapsed


def find(root: Node, names: Sequence[str]) -> Node | None:
    """The node at a dotted key; None if there is none."""
    for name in names:
        if not isinstance(root.value, dict) or name not in root.value:
            return None
        root = root.value[name]
    return root


def resolve(root: Node, problems: list[str]) -> Node:
    """The tree with every `${...}` replaced by the value it refers to, as OmegaConf reads it."""
    if "${" not in str(plain(root)):
        return root
    from omegaconf import OmegaConf  # imported here: it takes longer than the rest of the start

    root = _check_grammar(root, problems)
    return _resolve(root, {"": OmegaConf.create(plain(root))}, "", problems)


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


def _check_grammar(node: Node, problems: list[str]) -> Node:
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError

    if isinstance(node.value, dict):
        return replace(node, value={name: _check_grammar(child, problems) for name, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[_check_grammar(child, problems) for child in node.value])
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    try:
        OmegaConf.create([node.value])
    except GrammarParseError:
        problem = "must contain complete references: ${key} or ${oc.env:NAME,default}"
    except RecursionError:
        problem = "nests ${...} too deep"
    else:
        return node
    problems.append(f"{node.where}: {_shorten(repr(node.value))} {problem}")
    return replace(node, value=None, broken=True)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _resolve(node: Node, container: Any, name: str | int, problems: list[str]) -> Node:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(node.value, dict):
        inner = container[name]
        return replace(node, value={key: _resolve(child, inner, key, problems) for key, child in node.value.items()})
    if isinstance(node.value, list):
        inner = container[name]
        return replace(node, value=[_resolve(child, inner, i, problems) for i, child in enumerate(node.value)])
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    try:
        value = container[name]
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ")
        hint = "; it must be set in a file or override" if reason.startswith("Interpolation key") else ""
        problems.append(f"{node.where}: {_shorten(node.value)} cannot be resolved: {_shorten(reason)}{hint}")
        return replace(node, value=None, broken=True)
    if isinstance(value, str) and "oc.env:" in node.value:  # environment variables are text
        return Node(scalar(value), node.where, text=value)
    return place(value, node.where)
