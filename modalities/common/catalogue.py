"""Catalogues: folders of modules, each an entry with the file's name, read without importing it."""

import ast
import difflib
import functools
import importlib
import importlib.util
import io
import os
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PLUGINS = "CROSSMODAL_PLUGINS"  # environment variable with folders of plug-ins, which have a folder for each catalogue


@dataclass(frozen=True)
class Option:
    """One option of a class, from its source text."""

    name: str
    annotation: str
    default: str | None  # source text; None: required
    comment: str  # comment on or above its line


class UnknownNameError(LookupError):
    """No catalogue entry has this name; the message lists the entries and suggests the nearest."""


@dataclass(frozen=True)
class Catalogue:
    """The entries in a package folder and in plug-in folders: every file that does not start with an underscore.

    The environment variable CROSSMODAL_PLUGINS lists plug-in folders, which have a folder with the catalogue's name:
    `PLUGIN/objectives/vicreg.py` is `crossmodal.objectives.vicreg`. An entry's file has exactly one class that derives
    from `interface` directly; that class is the entry. Names, summaries and options are read from the source without
    importing it.
    """

    package: str  # "crossmodal.objectives"
    interface: str  # name of the class that entries derive from: "Objective"
    kind: str  # name of an entry in messages: "objective"
    beside: tuple[str, ...] = ()  # files in the folder that are not entries

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the package."""
        top, *rest = self.package.split(".")
        spec = importlib.util.find_spec(top)
        assert spec is not None and spec.submodule_search_locations
        return Path(spec.submodule_search_locations[0], *rest)

    @property
    def folders(self) -> list[Path]:
        """The folder of the package, then those of plug-ins."""
        roots = [root for root in os.environ.get(PLUGINS, "").split(os.pathsep) if root]
        return [self.folder, *(Path(root).expanduser().absolute() / self.package.rpartition(".")[2] for root in roots)]

    def names(self) -> list[str]:
        """The names of all entries, sorted."""
        return sorted(self._files())

    def get(self, name: str) -> Any:
        """The class of the entry called `name`; this imports its file.

        Raises:
            UnknownNameError: there is no such entry.
            ModuleNotFoundError: the entry needs a package that is not installed.
        """
        class_name = self._class(name).name
        try:
            return getattr(self.module(name), class_name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{self.kind} {name!r} needs the package {error.name!r}, which is not installed; "
                f"see the extras in setup.py (pip install 'crossmodal-transfer[all]')",
                name=error.name,
            ) from error

    def module(self, name: str) -> ModuleType:
        """The imported module of an existing entry."""
        path = importlib.import_module(self.package).__path__
        path.extend(folder for folder in map(str, self.folders[1:]) if folder not in path)
        return importlib.import_module(f"{self.package}.{name}")

    def options(self, name: str) -> dict[str, Option]:
        """The options of an entry: fields of a dataclass, or keyword-only parameters of `__init__`."""
        return read_options(self._source(name), self._class(name))

    def renamed(self, name: str) -> dict[str, str]:
        """Options of earlier versions with their current names, from the literal `RENAMED`."""
        return next((
            ast.literal_eval(item.value)
            for item in self._class(name).body
            if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "RENAMED" and item.value is not None
        ), {})  # fmt: skip

    def summary(self, name: str) -> str:
        """The first line of the entry's docstring."""
        return summary(self._class(name))

    def _source(self, name: str) -> str:
        files = self._files()
        if name not in files:
            raise UnknownNameError(f"{self.kind} {name!r} is not known{suggest(name, sorted(files))}")
        return files[name].read_text(encoding="utf-8")

    def _files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for path in (
            path for folder in self.folders for path in folder.glob("[!_]*.py") if path.stem not in self.beside
        ):
            if path.stem in files:
                raise ValueError(f"{path} has the same name as {files[path.stem]}; rename it")
            files[path.stem] = path
        return files

    def _class(self, name: str) -> ast.ClassDef:
        classes = [
            node
            for node in _parse(self._source(name)).body
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == self.interface for base in node.bases)
        ]
        if len(classes) != 1:
            raise ValueError(f"{self._files()[name]} must hold one class of base {self.interface}, got {len(classes)}")
        return classes[0]


@functools.lru_cache(maxsize=256)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def suggest(name: str, known: list[str]) -> str:
    """The end of a message about a wrong name: the nearest valid name, and all valid names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(known)})"


def summary(node: ast.ClassDef | ast.Module) -> str:
    """The first line of a docstring; empty if there is none."""
    return (ast.get_docstring(node) or "").split("\n", 1)[0]


def read_options(source: str, node: ast.ClassDef) -> dict[str, Option]:
    """The options of a class from its source text, each with the comment on or above its line."""
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    lines = source.splitlines(keepends=True)[: (init or node).end_lineno]  # the rest has no options
    comments = _comments("".join(lines))
    return _parameters(init, comments) if init else _fields(node, comments)


def _fields(node: ast.ClassDef, comments: Mapping[int, str]) -> dict[str, Option]:
    options = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        annotation, name = ast.unparse(item.annotation), item.target.id
        if not annotation.startswith("ClassVar"):
            default = None if item.value is None else ast.unparse(item.value)
            options[name] = Option(name, annotation, default, _beside(item, comments))
    return options


def _parameters(init: ast.FunctionDef, comments: Mapping[int, str]) -> dict[str, Option]:
    options = {}
    for argument, value in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "object"
        default = None if value is None else ast.unparse(value)
        options[argument.arg] = Option(argument.arg, annotation, default, _beside(argument, comments))
    return options


def _beside(node: ast.AnnAssign | ast.arg, comments: Mapping[int, str]) -> str:
    assert node.end_lineno is not None
    return comments.get(node.end_lineno) or comments.get(node.lineno) or comments.get(-(node.lineno - 1), "")


@cache
def _comments(source: str) -> Mapping[int, str]:
    """Comments by line number; comments on their own line have negative numbers."""
    by_line: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            alone = not token.line[: token.start[1]].strip()
            text = token.string.lstrip("# ").strip()
            if alone and -(line - 1) in by_line:
                text = f"{by_line.pop(-(line - 1))} {text}"
            by_line[-line if alone else line] = text
    return by_line
