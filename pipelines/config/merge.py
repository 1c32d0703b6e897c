"""Files over the files they are based on, overrides over files, and what `${...}` refers to: one tree in the end."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modalities.common.catalogue import suggest
from pipelines.config.errors import ConfigError
from pipelines.config.parse import Node, parse, place, plain, scalar

LONGEST = 200  # characters of a value that a message shows


def read(path: Path, problems: list[str]) -> Node:
    """A file with what it is based on, later files over earlier ones; `base` is a path or a list, from the file's own.

    A mapping in it may be based on files too.

    Raises:
        ConfigError: a file is absent, unreadable, no YAML, no mapping, or based on itself.
    """
    return _read(path, path.as_posix(), (), problems)


def read_override(text: str, problems: list[str], root: Node) -> Node:
    """The tree of one `a.b=value` or `~a.b` over `root`; the value is YAML.

    Raises:
        ConfigError: it is neither.
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
            problems.append(f"{where}: an empty mapping changes nothing, for mappings are joined; "
                            f"~{key}.NAME takes an entry out")  # fmt: skip
    else:
        node, names[-1] = Node(None, where), f"~{names[-1]}"
    for name in reversed(names):
        node = Node({name: node}, where)
    return node


def merge(first: Node, later: Node, problems: list[str], *, keep_place: bool = False) -> Node:
    """`later` over `first`: mappings are joined, `~key` removes, anything else replaces.

    With `keep_place`, joined mappings count as written where `first` was, and remember that `later` touched them; else
    where `later` was. `lapsed` tells of every text that changed what it was before and what files, not overrides, had
    put beside it, for where it is the name of an entry, those are options of another; which it is the schema knows.
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
    """By text that `later` changes in the mapping `first`: what it was; older keys beside it that `later` lacks."""
    found = {name: (before, beside.difference(later.value)) for name, (before, beside) in first.lapsed.items()}
    files = [name for name, node in first.value.items() if not node.touched and not node.where.startswith("override ")]
    beside = frozenset(files).difference(later.value)
    for name, node in later.value.items():
        before = first.value.get(name, first.short)
        known = None if before is None else before.value
        if isinstance(node.value, str) and (known is None or (isinstance(known, str) and known != node.value)):
            found[name] = (known, beside)
    return found


def find(root: Node, names: Sequence[str]) -> Node | None:
    """What was written at a dotted key; None where nothing was."""
    for name in names:
        if not isinstance(root.value, dict) or name not in root.value:
            return None
        root = root.value[name]
    return root


def resolve(root: Node, problems: list[str]) -> Node:
    """The tree with every `${...}` replaced by what it refers to, as OmegaConf reads it."""
    if "${" not in str(plain(root)):
        return root
    from omegaconf import OmegaConf  # only here: it costs more than all the rest of a command's start

    root = _check_grammar(root, problems)
    return _resolve(root, {"": OmegaConf.create(plain(root))}, "", problems)


def _read(path: Path, where: str, above: tuple[Path, ...], problems: list[str]) -> Node:
    """One file with its bases; `where` is what named it, `above` the files that led here."""
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
        raise ConfigError([f"{where}: {role}is based on this very file"])
    node = parse(text, shown, problems)
    if node.value is not None and not isinstance(node.value, dict):
        raise ConfigError([f"{shown}: must be a mapping of settings, got {plain(node)!r}"])
    content = dict(node.value or {})
    return _over_bases(Node({"base": Node([], shown), **content}, shown), path, (*above, path.resolve()), problems)


def _is_piped(path: Path) -> bool:
    """Whether a shell or another program writes the file while it is read, as in `crossmodal transfer <(...)`."""
    return path.is_fifo() and path.parent.as_posix() in ("/dev", "/dev/fd", "/proc/self/fd")


def _over_bases(node: Node, path: Path, above: tuple[Path, ...], problems: list[str]) -> Node:
    """A mapping of the file at `path`, and every mapping in it, over the files that it is based on."""
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
    found = node.value if isinstance(node.value, list) else [node]
    for base in found:
        if not isinstance(base.value, str):
            raise ConfigError([f"{base.where}: base must be the path of a config or a list of them, got {plain(base)}"])
    return found


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
        problem = "must refer as ${key} or ${oc.env:NAME,default}, spelt whole"
    except RecursionError:
        problem = "nests ${...} too deep to be read"
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
        found = container[name]
        found = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ")
        hint = "; files and overrides give what can be referred to" if reason.startswith("Interpolation key") else ""
        problems.append(f"{node.where}: {_shorten(node.value)} cannot be resolved: {_shorten(reason)}{hint}")
        return replace(node, value=None, broken=True)
    if isinstance(found, str) and "oc.env:" in node.value:  # the environment knows only text
        return Node(scalar(found), node.where, text=found)
    return place(found, node.where)
