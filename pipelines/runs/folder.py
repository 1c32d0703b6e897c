"""A run's folder: resolved config, log of metrics, checkpoints and report."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crossmodal.checkpoint import write, writing
from crossmodal.stores.paths import is_url
from pipelines.config import ConfigError, differences, leaves, renew, to_dict, to_yaml, without
from pipelines.config.errors import FinishedError, RunError, SharedError
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.runs.distributed import is_main
from pipelines.runs.lock import LOCK, Lock

RUN, REPORT, METRICS = "run.json", "report.json", "metrics.jsonl"
# files of a finished run that other pipelines read
RESULTS = "model/* */model/* */manifest.json */*.tar *.safetensors report.html results.json table.md"
ALONE = ("shards", "report")  # pipelines that rank 0 runs while the others wait
ASIDE = re.compile(r"\..+\.\d+|.+\.\d+\.part")  # files that `crossmodal.checkpoint` has not yet renamed
HALF = re.compile(r"step_\d+\.\d+\.part")  # folders that it has not
PACKAGES = ("crossmodal-transfer", "torch", "torchvision", "torchaudio", "accelerate", "numpy")


def digest_of(content: object) -> str:
    """The sha256 of plain content as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_report(folder: str | Path) -> dict[str, Any]:
    """The report of a finished run; empty if the folder holds none."""
    path = Path(folder) / REPORT
    return read_record(path) if path.is_file() else {}


def read_record(path: Path) -> dict[str, Any]:
    """The content of a run's `run.json` or `report.json`.

    Raises:
        RunError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete its folder, and run the same command again") from error


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path
    pipeline: str
    config: Any  # settled, see `pipelines.building.settling`
    inputs: Mapping[str, str]  # digests of the inputs, by config key
    locks: list[Lock] = field(default_factory=list, repr=False, compare=False)  # the held lock, once begun

    @classmethod
    def of(cls, path: str | Path, pipeline: str, config: object, inputs: Mapping[str, str]) -> "RunFolder":
        """The run that a config and its inputs describe; touches no file.

        Raises:
            ConfigError: the path is a URL.
        """
        if is_url(path):
            raise ConfigError([f"output must be a local folder, got {path}; runs cannot be written into a store"])
        return cls(Path(path), pipeline, config, inputs)

    @staticmethod
    def record_size(path: Path) -> None:
        """Updates the size of a file, one level below a finished run, in the run's report, if the report lists it."""
        folder, name = path.parent.parent, f"{path.parent.name}/{path.name}"
        report = read_report(folder)
        if name in report.get("results", {}):
            _write_json(folder / REPORT, {**report, "results": {**report["results"], name: _size(path)}})

    @classmethod
    def open(cls, pipeline: str, config: Any, inputs: Callable[[Any], Mapping[str, str]]) -> "RunFolder":
        """The run that a config and its inputs describe, checked to be the same on every process of the launch.

        Args:
            pipeline: name of the pipeline.
            config: its config.
            inputs: gives the digests of the inputs, by config key.

        Raises:
            ConfigError: its inputs cannot be read, or the processes were given different runs.
        """
        from pipelines.building.data import use_cache
        from pipelines.building.settling import settle

        use_cache(getattr(config, "cache", None))
        share = distributed.from_main if pipeline in ALONE else distributed.together
        config = share(lambda: settle(config))
        run = cls.of(config.output, pipeline, config, share(lambda: inputs(config)))
        agree(run.identity | {"config": to_dict(config, whole=True)})
        vars(run)["before"] = distributed.from_main(lambda: run.before)
        return run

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The pipeline, config values and inputs that decide the results."""
        config = to_dict(self.config, runtime_only=False, whole=True)
        return {"pipeline": self.pipeline, "config": config, "inputs": dict(self.inputs)}

    @cached_property
    def before(self) -> dict[str, Any] | None:
        """The record of the run in the folder, read once; None if there was none."""
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.path / RUN).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ConfigError([f"{self.path / RUN} cannot be read ({error}); choose another output folder"]) from error
        if not isinstance(record, dict) or not {*self.identity, "environment"} <= set(record):
            raise ConfigError([f"{self.path / RUN} does not describe a run; choose another output folder"])
        return {**record, "config": renew(type(self.config), record["config"])}

    @property
    def is_same(self) -> bool:
        """True if the folder holds this run; its inputs may have moved."""
        return self.before is not None and self._decisive(self.before) == self._decisive(self.identity)

    def _decisive(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a record that must be equal in the earlier run and in this one.

        It leaves out paths of inputs whose content is equal. It also leaves out `on_error` where it changed from stop
        to skip: the earlier run has read no unreadable pair, or it would have stopped.
        """
        assert self.before is not None
        old, now = leaves(self.before["config"]), leaves(self.identity["config"])
        equal = [name for name, digest in self.inputs.items() if self.before["inputs"].get(name) == digest]
        changed = {key for key in now if (old.get(key), now[key]) == ('"stop"', '"skip"')}
        skips = {key for key in changed if key.split(".")[-1] == "on_error"}
        aside = skips | (_places(equal) & now.keys()) | {*getattr(self.config, "DERIVED", ())}
        return {**{key: record[key] for key in self.identity}, "config": without(record["config"], aside)}

    @property
    def is_finished(self) -> bool:
        """True if the report is written and the files it lists are present."""
        return (self.path / REPORT).is_file() and not self._gone()

    def _gone(self) -> list[str]:
        """Files that the report lists and that are missing or have another size."""
        listed: dict[str, int] = read_report(self.path).get("results", {})  # reports of earlier versions have no list
        return [name for name, size in listed.items() if _size(self.path / name) != size]

    def is_done(self) -> bool:
        """True if there is nothing left to do, as rank 0 sees it; every process must call this. It writes nothing.

        If files of a finished run are gone, the run continues as after an interruption and makes them again.

        Raises:
            ConfigError: the folder holds another run, or something else.
        """
        return distributed.from_main(self._is_done)

    def _is_done(self) -> bool:
        if self.before is None:
            self._refuse_strangers()
        elif not self.is_same:
            raise ConfigError(self._why_other())
        elif self.is_finished:
            say(self._finished)
        elif gone := self._gone():
            more = f" and {len(gone) - 1} more files are" if gone[1:] else " is"
            say(f"{self.path}: finished before, but {gone[0]}{more} gone or changed in size, so it is made again")
        return self.is_finished

    @property
    def _finished(self) -> str:
        return f"{self.path}: finished before; nothing to do (delete the folder or choose another output to repeat it)"

    def begin(self, news: str = "continuing the interrupted run") -> None:
        """Creates the folder, or continues the run in it and prints `news`; called once every check has passed.

        Raises:
            ConfigError: the folder cannot be made, or another process is writing into it or has begun a run.
            FinishedError: another process has finished this run since `is_done`.
        """
        if not is_main() or self.locks:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.path)
        except OSError as error:
            problem = f"output {self.path}: cannot be made: {error.strerror}; choose another folder"
            raise ConfigError([problem]) from error
        self._refuse_finished()
        if self._read() != self.before:
            raise ConfigError([f"output {self.path}: another process began a run there; give the command again"])
        self.locks.append(lock)
        for half in [*_asides(self.path), *self.path.glob(f"{LOCK}.part-*")]:
            if half.is_dir():
                shutil.rmtree(half)
            else:
                half.unlink()
        if self.before is not None:
            say(f"{self.path}: {news}")
            (self.path / REPORT).unlink(missing_ok=True)  # that of a finished run whose results are gone
        if self.before is None or any(self.before[key] != value for key, value in self.identity.items()):
            self._describe()

    def begin_part(self, part: str) -> None:
        """Creates the folder or joins the run in it, which other processes that pack other parts may do as well.

        Raises:
            ConfigError: the folder cannot be made, holds another run, or a process is packing this part or all of it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.locks.append(Lock(self.path, shared=True))
            self.locks.append(Lock(self.path, f"{LOCK}.part-{part}"))
        except OSError as error:
            problem = f"output {self.path}: cannot be made: {error.strerror}; choose another folder"
            raise ConfigError([problem]) from error
        current = RunFolder.of(self.path, self.pipeline, self.config, self.inputs)
        if current.before is None:
            self._describe()
        elif not current.is_same:
            raise ConfigError(current._why_other())

    def _refuse_finished(self) -> None:
        """Checks again, under the lock, that there is something left to do."""
        current = RunFolder.of(self.path, self.pipeline, self.config, self.inputs)
        if current.is_same and current.is_finished:
            if distributed.count() > 1:  # the others are on their way to the first step
                raise ConfigError([f"output {self.path}: another process has just finished this run"])
            raise FinishedError(self._finished)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Writes the report, which marks the run as finished."""
        if is_main():
            paths = sorted(path for pattern in RESULTS.split() for path in self.path.glob(pattern))
            results = {path.relative_to(self.path).as_posix(): _size(path) for path in paths}
            content = {"pipeline": self.pipeline, **report, "results": results, "environment": environment()}
            _write_json(self.path / REPORT, content)

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends a line to the log of metrics."""
        path = self.path / METRICS
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget(self, is_repeated: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drops the lines of the log that will be written again, and a last line that a kill cut short."""
        path = self.path / METRICS
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            complete = [line for line in lines if (record := _line(line)) is not None and not is_repeated(record)]
            write(path, "".join(f"{line}\n" for line in complete))

    def make_room(self) -> None:
        """Renames an earlier run with another config or inputs; every process must call this, and all wait for it.

        Raises:
            ConfigError: another process is writing into the folder.
        """
        distributed.wait()
        if is_main() and self.before is not None and not self.is_same:
            lock = Lock(self.path)
            say(f"{self.path}: config or inputs changed; the earlier result is now {self.set_aside()}")
            del lock
        distributed.wait()

    def renew(self) -> "RunFolder":
        """This run in the folder of a changed one of the same pipeline; deletes its report and keeps the rest.

        Raises:
            ConfigError: the folder holds a run of another pipeline, or another process is writing into it.
        """
        assert self.before is not None
        if self.before["pipeline"] != self.pipeline:
            raise ConfigError(self._why_other())
        if is_main():
            self.locks.append(Lock(self.path))
            (self.path / REPORT).unlink(missing_ok=True)
            self._describe()
        return RunFolder(self.path, self.pipeline, self.config, self.inputs, self.locks)

    def set_aside(self) -> Path:
        """Renames the folder to make room for a changed run; gives the new path."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.before-{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    def _describe(self) -> None:
        write(self.path / "config.yaml", to_yaml(self.config, whole=True))
        from pipelines.building.published import origins

        weights = origins(self.config)
        recorded = self.identity | ({"weights": weights} if weights else {})
        _write_json(self.path / RUN, {**recorded, "environment": environment()})

    def _refuse_strangers(self) -> None:
        """Refuses a folder with files that no run wrote."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError([f"output {self.path} is a file; choose a folder"])
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if any(not name.startswith(("config.yaml", LOCK)) and not ASIDE.fullmatch(name) for name in names):
            raise ConfigError([f"output {self.path} holds files but no run; choose another output folder"])

    def _why_other(self) -> list[str]:
        assert self.before is not None
        head = f"output {self.path} holds another run; choose another output folder, or delete it. What differs:"
        if self.before["pipeline"] != self.pipeline:
            return [head, f"  pipeline: {self.before['pipeline']} before, {self.pipeline} now"]
        before, now = self._decisive(self.before), self._decisive(self.identity)
        changed = differences(before["config"], now["config"])
        old, inputs = self.before["inputs"], self.identity["inputs"]
        changed += [f"{name}: its content changed since" for name in inputs if old.get(name) != inputs[name]]
        return [head, *(f"  {line}" for line in changed)]


def agree(identity: Mapping[str, Any]) -> None:
    """Checks that every process of the launch has the same run and the same versions of packages.

    Args:
        identity: that of a run; see `RunFolder.identity`.

    Raises:
        SharedError: names what differs, and on which ranks; every rank raises.
    """
    if distributed.count() == 1:
        return
    problems = conflicts(distributed.gather({**identity, "packages": environment()["packages"]}))
    if problems:
        raise SharedError(problems)


def conflicts(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each difference between the ranks; paths of inputs of equal content may differ."""
    first, problems = identities[0], []
    for name in first["inputs"]:
        ranks = [rank for rank, other in enumerate(identities) if other["inputs"].get(name) != first["inputs"][name]]
        if ranks:
            where = distributed.name_ranks(ranks)
            problems.append(f"every process must read the same, but {name} has other content on {where} than on rank 0")
    places = _places(first["inputs"]) if not problems else set()
    kept = [{"pipeline": each["pipeline"], "versions": each["packages"]} for each in identities]
    configs = [leaves(without(each["config"], places) | own) for each, own in zip(identities, kept, strict=True)]
    for key in dict.fromkeys(key for each in configs for key in each):
        ranks_of: dict[str, list[int]] = {}
        for rank, each in enumerate(configs):
            ranks_of.setdefault(each.get(key, "absent"), []).append(rank)
        if len(ranks_of) > 1:
            values = " and ".join(f"{value} on {distributed.name_ranks(ranks)}" for value, ranks in ranks_of.items())
            problems.append(f"every process must be given the same run, but {key} is {values}")
    return problems


def _asides(folder: Path) -> Iterator[Path]:
    """What killed processes left half-written in a run's folder, without that in folders of runs below it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not (path / LOCK).exists():
            yield from [path] if HALF.fullmatch(path.name) else _asides(path)
        elif ASIDE.fullmatch(path.name):
            yield path


def _places(inputs: Iterable[str]) -> set[str]:
    """Config keys that hold the paths of some inputs; a comparison has those of its trainings below `transfer`."""
    keys = {key for name in inputs for key in (name, f"{name}.weights")} - {"teacher"}  # a name, not a path
    return keys | {f"transfer.{key}" for key in keys}


def environment() -> dict[str, Any]:
    """Versions, machine and commit, to record beside the metrics."""
    return {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    words, here = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    try:
        return subprocess.run(words, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _line(text: str) -> Mapping[str, Any] | None:
    """A line of the log; None if a killed run left only part of it."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _size(path: Path) -> int | None:
    """The bytes of a file; None if there is none."""
    return path.stat().st_size if path.is_file() else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write(path, json.dumps(content, indent=1) + "\n")
