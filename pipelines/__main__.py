"""The command `crossmodal`, also `python -m pipelines`: finds the pipeline, checks its config and runs it.

Exit codes: 0 success, 1 the run failed, 2 the command or config is wrong, 130 interrupted.
"""

import importlib
import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from modalities.common.catalogue import PLUGINS, suggest
from pipelines import registry
from pipelines.config.errors import ConfigError, RunError, SharedError, printable
from pipelines.config.fields import CATALOGUES
from pipelines.config.trials import read_trial
from pipelines.runs import distributed
from pipelines.runs.console import print_records

if TYPE_CHECKING:
    from crossmodal.stores.paths import AnyPath

PACKAGES = ("modalities", "crossmodal", "pipelines")
SCREEN = 20  # most problems shown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot encode
    print_records()
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        distributed.tell("it was interrupted")
        return 130
    except BrokenPipeError:  # the reader has stopped, as in `crossmodal list encoders | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(error, debug="--debug" in words)


def _fail(error: Exception, *, debug: bool) -> int:
    """Prints what went wrong; gives the exit code, or raises a defect's error for its traceback."""
    lost, code = distributed.is_lost(error), 2 if isinstance(error, ConfigError) else 1
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, ConfigError):
        _complain(error.problems, every_rank=not isinstance(error, SharedError))
    elif lost:
        if not distributed.has_told():
            _complain(["lost another process of this launch, which ended first; its message says why"], every_rank=True)
    elif _is_users(error):
        _complain([str(error)], every_rank=True)
    elif distributed.is_open():
        traceback.print_exception(error)
    else:
        raise error
    if isinstance(error, SharedError):
        distributed.part()  # all processes come here, after the first has printed
    elif distributed.is_open():
        if not lost:
            distributed.tell(str(error) if _is_users(error) else f"{type(error).__name__}: {error}")
        distributed.leave(code)
    return code


def _dispatch(words: list[str]) -> int:
    match words:
        case [] | ["-h" | "--help" | "help", *_]:
            from pipelines.config.help import usage

            print(usage(registry.PIPELINES), file=sys.stdout if words else sys.stderr)
            return 0 if words else 2
        case ["--version", *_]:
            print(f"crossmodal-transfer {importlib.metadata.version('crossmodal-transfer')}")
            return 0
        case ["list", *rest]:
            return _list(rest)
        case ["schema", *rest]:
            return _print_schema(rest)
        case [name, *rest] if name in registry.TOOLS:
            if name in registry.PIPELINES.names():
                raise ConfigError([f"{name}.py in {PLUGINS} has the name of a command; rename the file"])
            return int(getattr(importlib.import_module(registry.TOOLS[name]), name)(rest))
        case [name, *rest]:
            return _run(name, rest)
    raise AssertionError("every command has a case")


def _list(words: list[str]) -> int:
    from pipelines.config.help import describe_pipeline, list_entries, list_pipelines

    kinds = [*CATALOGUES, "pipelines"]
    if {"--help", "-h"} & {*words}:
        print(f"crossmodal list KIND           list all entries of a kind with their options: {', '.join(kinds)}")
        print("crossmodal list KIND NAME ...  list only these entries, or the config fields of a pipeline")
        return 0
    if not words:
        raise ConfigError([f"crossmodal list: expected one of {', '.join(kinds)}"])
    kind, *names = words
    _must_know("crossmodal list:", kind, kinds)
    if kind == "pipelines" and names:
        print(describe_pipeline(names[0], registry.find_pipeline(names[0])))
    elif kind == "pipelines":
        print(list_pipelines(registry.PIPELINES))
    else:
        catalogue = CATALOGUES[kind]
        for name in names:
            _must_know(catalogue.kind, name, catalogue.names())
        print(list_entries(catalogue, names or catalogue.names()))
    return 0


def _print_schema(words: list[str]) -> int:
    import json

    from pipelines.config.schema import schema_of

    if {"--help", "-h"} & {*words}:
        print(
            f"crossmodal schema PIPELINE   print the JSON Schema of its config: {', '.join(registry.PIPELINES.names())}"
        )
        return 0
    if len(words) != 1 or words[0].startswith("-"):
        raise ConfigError(["expected crossmodal schema PIPELINE, which prints the JSON Schema of its config"])
    print(json.dumps(schema_of(words[0], registry.find_pipeline(words[0])), indent=1))
    return 0


def _run(name: str, words: list[str]) -> int:
    pipeline = registry.find_pipeline(name)
    if "--help" in words or "-h" in words:
        from pipelines.config.help import describe_pipeline

        print(describe_pipeline(name, pipeline))
        return 0
    flags: dict[str, str] = getattr(pipeline, "flags", {})
    form = f"expected crossmodal {name} CONFIG [key=value ...]"
    words, action = _take_action(name, pipeline, read_trial(name, pipeline.Config, words))
    if not words or words[0].startswith("trial="):
        raise ConfigError([f"{form}, got no CONFIG; --help shows its fields"])
    if words[0].startswith("-") or any(word in flag.split() for word in words for flag in flags):
        paths = [word for word in words if not word.startswith("-")]
        flag = " ".join(
            sorted(word for word in words if word.startswith("-"))
        )  # "--check --pairing" has an entry of its own
        _must_know(f"{name}: flag", flag, [*flags, "--help"])
        if len(paths) != 1:
            raise ConfigError([f"expected crossmodal {name} {flag} PATH, got {len(paths)} paths"])
        return pipeline.inspect(flag, _place(paths[0]))
    if "=" in words[0] and not Path(words[0]).exists():
        raise ConfigError([f"{form}, got {words[0]} instead of CONFIG"])
    if action:
        from pipelines.config import load

        for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
            os.environ.pop(variable, None)  # the process works alone, whatever started it
        pipeline.act(action, load(pipeline.Config, Path(words[0]), words[1:]))
        return 0
    from pipelines.api import execute

    try:
        execute(pipeline, Path(words[0]), words[1:])
    except SystemExit as stopped:  # a signal stopped all processes
        return int(stopped.code or 0)
    return 0


def _place(text: str) -> "AnyPath":
    """The folder that a flag is given.

    Raises:
        ConfigError: a URL has credentials, or no bucket.
    """
    from crossmodal.stores.paths import to_path

    try:
        return to_path(text)
    except ValueError as error:
        raise ConfigError([f"PATH {error}"]) from error


def _take_action(name: str, pipeline: ModuleType, words: list[str]) -> tuple[list[str], str]:
    """The words without an action such as `--part 3/64` or `--join`, and the action: "part=3/64", "join" or "".

    Raises:
        ConfigError: there are several actions, or one lacks its value.
    """
    actions: dict[str, str] = getattr(pipeline, "actions", {})
    words = [piece for word in words for piece in (word.split("=", 1) if word.split("=")[0] in actions else [word])]
    given = [word for word in words if word in actions]
    if not given:
        return words, ""
    if len(given) > 1:
        raise ConfigError([f"crossmodal {name}: give one of {', '.join(actions)}"])
    place, flag = words.index(given[0]), given[0]
    takes = ":" in actions[flag]
    value = words[place + 1 : place + 1 + takes]
    if takes and not value:
        raise ConfigError([f"crossmodal {name}: {flag} needs {actions[flag]}"])
    return words[:place] + words[place + 1 + takes :], "=".join([flag[2:], *value])


def _must_know(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError([f"{kind} {name!r} is not known{suggest(name, known)}"])


def _is_users(error: Exception) -> bool:
    """True if the message tells the user enough; any other error is a defect and keeps its traceback."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    plain = type(error) in (ValueError, LookupError)  # then the module that raised it counts
    module = frame.f_globals["__name__"] if plain else type(error).__module__
    return isinstance(error, RunError | OSError | ModuleNotFoundError) or module.partition(".")[0] in PACKAGES


def _complain(problems: list[str], *, every_rank: bool = False) -> None:
    """Prints to stderr, on rank 0 only or, with `every_rank`, on every rank that fails."""
    rank = os.environ.get("RANK", "0")
    if rank != "0" and not every_rank:
        return
    shown = problems[:SCREEN]
    if len(problems) > SCREEN:
        shown.append(f"... and {len(problems) - SCREEN} more")
    numbered = rank != "0" or (every_rank and distributed.count() > 1)
    for problem in map(printable, shown):
        print(f"rank {rank}: {problem}" if numbered else problem, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
