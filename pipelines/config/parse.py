"""Parse YAML into a tree of values with their lines, and write YAML. Nothing in it is executed.

Scalars follow YAML 1.2: only `true` and `false` are booleans (`yes` and `on` are text), `1e-3` is a number, `010` and
`2024-01-01` are text. Tags, anchors and aliases are errors.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from pipelines.config.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", rf"[-+]?{_DIGITS}", list("-+0123456789")),
    ("float", rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
)
_READ: dict[str, Callable[[str], Any]] = {  # the value of a scalar with a tag
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


@dataclass(frozen=True)
class Node:
    """One value of a config."""

    value: Any  # a mapping of names to nodes, a list of nodes, or a scalar
    where: str  # "configs/x.yaml:12" or "override train.lr=1"
    text: str | None = None  # as typed, if unquoted in an override or the environment
    broken: str = ""  # the problem that makes it unreadable
    short: "Node | None" = None  # the name this mapping was merged onto: `encoder: convnet`, then `encoder.width=8`
    touched: tuple[str, ...] = ()  # overrides that were merged into this mapping of a file
    outdated: frozenset[tuple[str, str | None]] = frozenset()  # texts beside it that changed since, by key; see `merge`

    @property
    def places(self) -> str:
        """All places that contributed to it: "x.yaml:12 and override train.lr=1"."""
        return " and ".join(dict.fromkeys([self.where, *self.touched]))

    @property
    def is_from_file(self) -> bool:
        """True if no override set it or a value in it."""
        return not self.touched and not self.where.startswith("override ")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (pyyaml stores them in the class; filled below)

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few nested aliases can expand to gigabytes
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported; write ${key}", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or this module would read as another type."""


for _name, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def parse(text: str, place: str, problems: list[str], *, lines: bool = True) -> Node:
    """The tree of a YAML text; without `lines`, every place is just `place`.

    Raises:
        ConfigError: the text is not YAML.
    """
    reader = _Reader(place, lines, problems)
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        hint = "; inside [ ] and { }, ${...} needs quotes" if "${" in text and "expected" in reason else ""
        raise ConfigError([f"{reader.where(mark)}: this is not YAML: {reason.splitlines()[0]}{hint}"]) from error
    return Node(None, place) if root is None else reader.read(root, place, "")


def plain(node: Node) -> Any:
    """The plain values of a tree."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def along(root: Node, key: str) -> list[Node]:
    """The root and the nodes at the parts of a dotted key, as far as they are written."""
    path = [root]
    for name in key.split("."):
        if not isinstance(path[-1].value, dict) or name not in path[-1].value:
            break
        path.append(path[-1].value[name])
    return path


def place(value: Any, where: str) -> Node:
    """A plain value as a tree in which every node has the same place; paths become text."""
    if isinstance(value, Mapping):
        return Node({str(name): place(child, where) for name, child in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([place(child, where) for child in value], where)
    return Node(str(value) if isinstance(value, PurePath) else value, where)


def scalar(text: str) -> Any:
    """The YAML value of an unquoted `text`: null, a boolean, a number or the text itself."""
    return _READ[str(_Loader("").resolve(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)](text)


def dump(values: Mapping[str, Any]) -> str:
    r"""YAML that reads back as the same values; `${` is written as `\${`, so that it is no reference."""
    return yaml.dump(_escape(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


@dataclass(frozen=True)
class _Reader:
    place: str
    lines: bool
    problems: list[str]

    def where(self, mark: yaml.Mark | None) -> str:
        return f"{self.place}:{mark.line + 1}" if self.lines and mark else self.place

    def read(self, node: yaml.Node, where: str, key: str) -> Node:
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node, where, key)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            items = enumerate(node.value)
            return Node([self.read(item, self.where(item.start_mark), f"{key}.{i}") for i, item in items], where)
        if isinstance(node, yaml.ScalarNode):
            with suppress(KeyError, ValueError):  # a tag that is not for scalars, or not for this one
                return Node(_READ[tag](node.value), where)
        tag = node.tag.replace(_TAG, "!!")
        problem = f"{where}: {key} has the tag {tag}, which cannot be read; configs hold plain values"
        self.problems.append(problem)
        return Node(None, where, broken=problem)

    def _mapping(self, node: yaml.Node, where: str, key: str) -> Node:
        nodes: dict[str, Node] = {}
        for name, child in node.value:
            here, inner = self.where(name.start_mark), f"{key}.{name.value}".removeprefix(".")
            if not isinstance(name, yaml.ScalarNode):
                self.problems.append(f"{here}: {key or 'the config'} has a list or mapping as a key; keys are names")
                continue
            if name.value in nodes:
                self.problems.append(f"{here}: {inner} is given twice, first at {nodes[name.value].where}")
            nodes[name.value] = self.read(child, here, inner)
        return Node(nodes, where)


def _escape(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _escape(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(child) for child in value]
    # OmegaConf reads \${ as the text ${, and halves the backslashes before it
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
