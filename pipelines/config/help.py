"""The help pages of the command line, read from sources and schemas so that nothing heavy is imported."""

import ast
import json
import re
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from types import ModuleType
from typing import Any, get_args, get_type_hints

from modalities.common.catalogue import Catalogue, summary
from pipelines.config import to_plain
from pipelines.config.fields import CATALOGUES, bounds_of, declared, group_of
from pipelines.config.trials import TRIALS, has_trials

_USAGE = """\
Moves knowledge between sensors: a teacher network on one modality teaches a student on another.

  crossmodal PIPELINE CONFIG [key=value ...]   run a pipeline
  crossmodal PIPELINE --help                   list the fields of its config
  crossmodal init PATH                         look at a recording or folder and write the configs of a first transfer
  crossmodal predict MODEL FILE ...            classify files with a trained classifier
  crossmodal embed MODEL FILE ... --to FILE    write embeddings of files or shards as .parquet or .npz
  crossmodal export MODEL --to KIND --out FILE write an ONNX, torch.export (pt2) or timm file, and compare it
  crossmodal list KIND [NAME]                  list what can be chosen: {kinds}
  crossmodal schema PIPELINE                   print the JSON Schema of its config, for editors
  crossmodal completion bash                   print a script with which bash or zsh completes all of this
  crossmodal --version
  crossmodal ... --debug                       show tracebacks of errors

CONFIG is a YAML file with the settings that differ from the defaults. Overrides change it:
  train.lr=0.1                  set a field; the value is YAML
  ~train.lr                     remove the file's value, so that the default applies
  'objectives={{kd: }}'           add kd; mappings are merged
  'objectives={{~crd: , kd: }}'   add kd and remove crd
  student.encoder.name=resnet   use another encoder, without the options that the file gives to the old one
In the file, `base: other.yaml` starts from another file, also in a mapping; ${{train.lr}} refers to another
value, ${{oc.env:NAME,default}} to an environment variable. On several devices: torchrun -m pipelines PIPELINE ...

Pipelines:
{pipelines}"""
_NAMES = """
Names to choose from (crossmodal list KIND [NAME] shows their options); a plain name is short for a
mapping with only the name: `encoder: convnet` is `encoder: {name: convnet}`"""
_COLUMN, _WIDTH = 44, 120
Row = tuple[str, str]  # two columns


def usage(pipelines: Catalogue) -> str:
    """The page of `crossmodal --help`."""
    return _USAGE.format(kinds=", ".join([*CATALOGUES, "pipelines"]), pipelines=list_pipelines(pipelines))


def list_pipelines(pipelines: Catalogue) -> str:
    """All pipelines, each with the first line of its docstring."""
    sources = {name: (pipelines.folder / f"{name}.py").read_text(encoding="utf-8") for name in pipelines.names()}
    return "\n".join(_row(name, summary(ast.parse(source)), column=16) for name, source in sources.items())


def list_entries(catalogue: Catalogue, names: list[str]) -> str:
    """Entries of a catalogue, each with its summary and options."""
    heads = {name: _row(name, catalogue.summary(name), 16) for name in names}
    return "\n\n".join("\n".join([head, *_options(catalogue, name)]) for name, head in heads.items())


def describe_pipeline(name: str, pipeline: ModuleType) -> str:
    """The page of `crossmodal PIPELINE --help`."""
    flags: dict[str, str] = getattr(pipeline, "flags", {})
    filled = {*getattr(pipeline.Config, "PLACEHOLDERS", ()), *getattr(pipeline.Config, "DERIVED", ())}
    parts = [
        f"crossmodal {name} CONFIG [key=value ...]",
        *(f"crossmodal {name} {flag} PATH   {text}" for flag, text in flags.items()),
        *(f"crossmodal {name} CONFIG {flag}   {text}" for flag, text in getattr(pipeline, "actions", {}).items()),
        *(f"crossmodal {name} CONFIG {flag}   {text}" for flag, text in TRIALS.items() if has_trials(pipeline.Config)),
        "",
        (pipeline.__doc__ or "").strip(),
        "",
        "Fields of the config, with type and default; * required:",
        *(_row(head, comment) for head, comment in _fields(pipeline.Config, hidden=filled)),
    ]
    used = {item.metadata["catalogue"] for item in _all_fields(pipeline.Config) if "catalogue" in item.metadata}
    names = [(kind, ", ".join(CATALOGUES[kind].names())) for kind in CATALOGUES if kind in used]
    parts += [_NAMES, *(_row(kind, known, column=16) for kind, known in names)] if names else []
    return "\n".join(parts)


def _fields(schema: type, key: str = "", given: object = None, *, hidden: Collection[str] = ()) -> Iterator[Row]:
    """Rows such as ("train.lr: float = 0.1", comment), without the `hidden` paths; `given` overrides defaults."""
    for item in fields(schema):
        path, source = f"{key}{item.name}", declared(schema)[item.name]
        if path in hidden:
            continue
        default = _default(item) if given is None else getattr(given, item.name)
        if "options_of" in item.metadata:
            yield f"{key}<option>", f"options of {key}{item.metadata['options_of']}"
            continue
        kind = get_type_hints(schema)[item.name]
        comment = "; ".join(part for part in (source.comment, bounds_of(item.metadata)) if part)
        yield _head(path, source.annotation, item, default, kind), comment
        inner = _inner(kind)
        if inner is not None:
            default = default if is_dataclass(default) else None
            yield from _fields(inner, path + _step(kind), default, hidden=hidden)


def _head(path: str, annotation: str, item: Field[Any], default: object, kind: Any) -> str:
    annotation = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace("'", "").replace(", ", " | "), annotation)
    if is_dataclass(default) or (default is MISSING and is_dataclass(kind)):
        return f"{path}:"
    if item.metadata.get("from_key"):
        return f"{path}: {annotation} = its key"
    return f"{path}*: {annotation}" if default is MISSING else f"{path}: {annotation} = {json.dumps(to_plain(default))}"


def _all_fields(schema: type) -> Iterator[Field[Any]]:
    for item in fields(schema):
        yield item
        inner = _inner(get_type_hints(schema)[item.name])
        if inner is not None:
            yield from _all_fields(inner)


def _inner(kind: Any) -> type | None:
    """The dataclass in a type: `Teacher` in `Teacher | None` and in `dict[str, Teacher]`."""
    if is_dataclass(kind) and isinstance(kind, type):
        return kind
    return next((inner for member in get_args(kind) if (inner := _inner(member)) is not None), None)


def _step(kind: Any) -> str:
    """The part of a path that follows a field of this type."""
    if getattr(kind, "__origin__", None) is dict:
        return ".<name>" + _step(get_args(kind)[1])
    return ".<number>." if getattr(kind, "__origin__", None) in (list, tuple) else "."


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _options(catalogue: Catalogue, name: str) -> Iterator[str]:
    for option in catalogue.options(name).values():
        required, default = ("*", "") if option.default is None else ("", f" = {option.default}")
        group = group_of(option)
        yield _row(f"  {option.name}{required}: {'' if group else option.annotation + default}", option.comment)
        if group is not None:
            for head, comment in _fields(group, f"{option.name}."):
                yield _row(f"  {head}", comment)


def _row(head: str, comment: str, column: int = _COLUMN) -> str:
    """Two columns; the comment of a long head starts on the next line."""
    lines = [" " * column + line for line in textwrap.wrap(comment, _WIDTH - column - 2) or [""]]
    first = f"  {head}"
    lines[:1] = [first, lines[0]] if len(first) > column - 2 else [f"{first:<{column}}{lines[0][column:]}"]
    return "\n".join(line.rstrip() for line in lines if line.strip())
