"""The pairs that weights have seen: those of their run, of its teachers and of the weights that these started from."""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from crossmodal.data.manifest import ShardError
from crossmodal.data.shards import Shards
from crossmodal.published import is_name
from crossmodal.stores.errors import StoreError
from pipelines.building.data import open_parts
from pipelines.config import ConfigError, at, load, within
from pipelines.registry import find_pipeline
from pipelines.runs.console import warn
from pipelines.runs.folder import RunFolder, is_main, read_report
from pipelines.schemas import certify, pretrain, transfer
from pipelines.schemas.common import HeldOutConfig
from pipelines.schemas.trained import SCHEMAS, TrainedConfig

VOUCH = "or set prior.unseen=true to vouch that these weights saw none of the certified pairs"


def refuse_seen(weights: str, certified: Shards, key: str) -> None:
    """Refuses weights that were trained on any of the certified pairs, because no bound would hold.

    Two pairs are the same if their keys are equal, whatever their fields, because a depth map shows what its picture
    shows. They are also the same if the bytes of a field are equal, whatever their keys.

    Raises:
        ConfigError: they were, or the runs do not show what they saw.
    """
    for (folder, held_out), path in _seen(weights, key).items():
        learnt, _ = open_parts(folder, held_out, key)
        with at(key):
            both = _shared(certified, learnt)
        if both:
            seen = f"{len(both)} of the {len(certified)} certified pairs (on {min(both)!r} as {both[min(both)]!r} of"
            remedy = f"certify pairs that it never saw, such as held_out ones, {VOUCH}"
            problem = f"{path} was trained on {seen} {folder}), so the certificate would not hold; {remedy}"
            raise ConfigError([f"{key}: {problem}"])


def count_copies(test: Shards, learnt: Shards, weights: Iterable[str], key: str) -> tuple[int, list[str]]:
    """The number of test pairs that were trained on, and sources for which this is unknown; prints both on stderr.

    Training pairs are `learnt` and all pairs that led to the weights, if these come from runs. Copies are equal in all
    fields, byte by byte. Keys do not count: numbered files of a test set often have those of the training set.

    Raises:
        ConfigError: all were trained on, or a run behind the weights was trained on this folder.
    """
    with at(key):
        copies_of = {f"{learnt.folder}, which are trained on": _copies(test, learnt)}
    checked, unknown = {(learnt.manifest.digest, None)}, list[str]()
    for path, config in dict(run for name in weights for run in _runs(name)).items():
        if config is None:
            unknown.append(str(path))
            continue
        digest, held_out = _record(path, config)["inputs"]["data"], getattr(config, "held_out", None)
        if digest == test.manifest.digest:
            raise ConfigError([f"{key}: {path} was trained on {test.folder}; evaluate on pairs it never saw"])
        if checked.isdisjoint({(digest, None), (digest, held_out)}):
            checked.add((digest, held_out))
            try:
                shards, _ = open_parts(config.data, held_out, key)
                same = shards.manifest.digest == digest
                copies = _copies(test, shards) if same else set()
            except (ConfigError, ShardError, StoreError):
                same, copies = False, set()
            unknown += [] if same else [config.data]
            copies_of[f"{config.data}, which {path} was trained on"] = copies
    copies, lines = set.union(*copies_of.values()), []
    copies_of = {place: some for place, some in copies_of.items() if some}
    among = f"{len(test)} pairs of {test.folder} are among those of"
    if len(copies) == len(test):
        remedy = "evaluate on others, or hold some out (held_out)"
        raise ConfigError([f"{key}: all {among} {' and '.join(copies_of)}; {remedy}"])
    for place, some in copies_of.items():
        lines.append(f"{len(some)} of the {among} {place} (such as {min(some)!r}), but count as unseen")
    if unknown:
        where = f"{', '.join(unknown)}: gone, changed since, or not of a run"
        lines.append(f"could not check whether pairs of {test.folder} were trained on in {where}")
    for line in lines if is_main() else ():
        warn(f"{key}: {line}")
    return len(copies), unknown


def _copies(test: Shards, learnt: Shards) -> set[str]:
    """Keys of the test pairs whose fields, as far as both have them, are all among the training pairs."""
    fields = test.manifest.fields.keys() & learnt.manifest.fields.keys()
    return set.intersection(*({*_equal(test, learnt, field)} for field in fields)) if fields else set()


def _runs(weights: str) -> Iterator[tuple[Path, TrainedConfig | None]]:
    """The runs that led to some weights, with their configs (None if one is gone); none for published weights."""
    try:
        path, config = origin(weights)
    except ConfigError:
        if not is_name(weights) and not Path(weights).is_file():
            yield Path(weights), None
        return
    yield path, config
    for other in _before(config):
        yield from _runs(other)


def _record(path: Path, config: TrainedConfig) -> dict[str, Any]:
    """The record that a run wrote when it began."""
    record = RunFolder.of(path, "", config, {}).before
    assert record is not None
    return record


def _seen(weights: str, key: str) -> dict[tuple[str, HeldOutConfig | None], Path]:
    """All training pairs that led to some weights, as folder and held-out part, each with a run that saw them.

    Raises:
        ConfigError: they come from no finished run, or its inputs have changed since.
    """
    try:
        path, config = origin(weights)
    except ConfigError as error:
        problem = f"{key}: {weights} is no folder of a finished run, so its training pairs are unknown"
        raise ConfigError([f"{problem}; take one, {VOUCH}"]) from error
    with within(key):
        _refuse_changed(path, config)
    seen = {(config.data, getattr(config, "held_out", None)): path}
    for other in _before(config):
        seen = _seen(other, key) | seen
    return seen


def _refuse_changed(path: Path, config: TrainedConfig) -> None:
    """Refuses a run whose inputs have changed since, because its training pairs are unknown.

    Raises:
        ConfigError: names what differs.
    """
    run = _record(path, config)
    now = find_pipeline(run["pipeline"]).inputs(config)
    changed = [name for name in now if run["inputs"].get(name) != now[name]]
    if changed:
        problem = f"{', '.join(changed)} of {path / 'config.yaml'} changed after it was trained"
        raise ConfigError([f"{problem}, so its training pairs are unknown; train it again, {VOUCH}"])


def _before(config: TrainedConfig) -> list[str]:
    """The weights that a run started from, and those of its teachers."""
    if isinstance(config, pretrain.Config):
        sources = [encoder.weights for encoder in config.encoders.values()]
    elif isinstance(config, certify.Config):
        sources = [config.encoder.weights, config.teacher.weights if config.teacher else None]
    else:
        sources = [config.student.weights]
    if isinstance(config, transfer.Config):
        sources += [teacher.weights for teacher in config.teachers.values()]
    return [str(Path(weights)) for weights in sources if weights is not None]


def _shared(certified: Shards, learnt: Shards) -> dict[str, str]:
    """Keys of the certified pairs that are among the training pairs, with their keys there."""
    shared = {key: key for key in _keys(certified) & _keys(learnt)}
    for field in certified.manifest.fields.keys() & learnt.manifest.fields.keys():
        shared |= _equal(certified, learnt, field)
    return shared


def _equal(ours: Shards, theirs: Shards, field: str) -> dict[str, str]:
    """Keys of our pairs whose field has the same bytes in one of theirs, with the key of that one."""
    known = dict(_contents(theirs, field))
    return {key: known[digest] for digest, key in _contents(ours, field) if digest in known}


def _keys(shards: Shards) -> set[str]:
    return {shards.locate(index)[1].key for index in range(len(shards))}


def _contents(shards: Shards, field: str) -> Iterator[tuple[bytes, str]]:
    """The digest of a field's bytes and the key, for every pair that has the field."""
    member = shards.member(field)
    for index in range(len(shards)):
        row = shards.locate(index)[1]
        if member in row.members and not row.problems:
            yield hashlib.sha256(shards.read(index, [member])[1][member]).digest(), row.key


@functools.lru_cache(maxsize=256)
def _load(schema: type[TrainedConfig], file: Path, stamp: tuple[int, int] | None) -> TrainedConfig:
    """The config of a run; an evaluation asks for that of each student many times."""
    return load(schema, file, stored=True)


def origin(folder: str) -> tuple[Path, TrainedConfig]:
    """The run that trained a student, and its config.

    Raises:
        ConfigError: the folder is not that of a finished run of a pipeline that trains.
    """
    for path in (Path(folder), Path(folder).parent):  # each of several encoders has a folder in the run's
        schema = SCHEMAS.get(read_report(path).get("pipeline", ""))
        if schema is not None:
            file = path / "config.yaml"
            stamp = (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None
            return path, _load(schema, file, stamp)
    raise ConfigError([f"students: {folder} must be the folder of a finished run of {', '.join(SCHEMAS)}"])
