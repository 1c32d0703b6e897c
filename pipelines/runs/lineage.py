"""What weights have seen: the pairs of the run they come from, of its teachers and of what these began from."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from crossmodal.data.manifest import ShardError
from crossmodal.data.shards import Shards
from pipelines.building.data import open_parts
from pipelines.config import ConfigError, at, load, within
from pipelines.config.errors import printable
from pipelines.registry import find_pipeline
from pipelines.runs.folder import RunFolder, is_main, read_report
from pipelines.schemas import certify, pretrain, transfer
from pipelines.schemas.common import HeldOutConfig
from pipelines.schemas.trained import SCHEMAS, TrainedConfig

VOUCH = "or vouch with prior.unseen=true that they saw none of the pairs that are certified"


def refuse_seen(weights: str, certified: Shards, key: str) -> None:
    """Refuses weights that were trained on any of the pairs that are certified: no bound would hold.

    Pairs are the same where their keys are, whatever fields they have, for a depth map shows what its picture shows;
    or where the bytes of a field are, whatever their keys.

    Raises:
        ConfigError: they were; or it cannot be told.
    """
    for (folder, held_out), path in _seen(weights, key).items():
        learnt, _ = open_parts(folder, held_out, key)
        with at(key):
            both = _shared(certified, learnt)
        if both:
            raise ConfigError([
                f"{key}: {path} was trained on {len(both)} of the {len(certified)} pairs that are certified (on "
                f"{min(both)!r} as {both[min(both)]!r} of {folder}), so that the certificate would not hold; certify "
                f"pairs it never saw, such as held_out ones, {VOUCH}"
            ])  # fmt: skip


def count_copies(test: Shards, learnt: Shards, weights: Iterable[str], key: str) -> tuple[int, list[str]]:
    """How many of the pairs to judge by are among those learnt from, and of what that cannot be told; both on stderr.

    Learnt from are `learnt` and all pairs that led to the weights, as far as these come from runs. Copies are equal in
    all fields, byte by byte. Keys do not count, for numbered files of a test set often have those of the training set.

    Raises:
        ConfigError: all are; or weights, as far as it is known, were trained on this very folder.
    """
    with at(key):
        found = {f"{learnt.folder}, which are learnt from": _copies(test, learnt)}
    done, untold = {(learnt.manifest.digest, None)}, list[str]()
    for path, config in dict(run for name in weights for run in _runs(name)).items():
        if config is None:
            untold.append(str(path))
            continue
        digest, held_out = _record(path, config)["inputs"]["data"], getattr(config, "held_out", None)
        if digest == test.manifest.digest:
            raise ConfigError([f"{key}: {path} was trained on {test.folder}; judge by pairs it never saw"])
        if done.isdisjoint({(digest, None), (digest, held_out)}):
            done.add((digest, held_out))
            try:
                shards, _ = open_parts(config.data, held_out, key)
                same = shards.manifest.digest == digest
                copies = _copies(test, shards) if same else set()
            except (ConfigError, ShardError):
                same, copies = False, set()
            untold += [] if same else [config.data]
            found[f"{config.data}, which {path} was trained on"] = copies
    copies = set.union(*found.values())
    if len(copies) == len(test):
        where = " and ".join(place for place, some in found.items() if some)
        raise ConfigError([f"{key}: all {len(test)} pairs of {test.folder} are among those of {where}; judge by "
                           "others, or hold some out (held_out)"])  # fmt: skip
    lines = [f"{len(some)} of the {len(test)} pairs of {test.folder} are among those of {place} (such as "
             f"{min(some)!r}), and yet count as unseen" for place, some in found.items() if some]  # fmt: skip
    if untold:
        lines.append(f"whether pairs of {test.folder} were trained on cannot be told of {', '.join(untold)}: gone, "
                     "changed since, or of no run")  # fmt: skip
    for line in lines if is_main() else ():
        print(printable(f"{key}: {line}"), file=sys.stderr, flush=True)
    return len(copies), untold


def _copies(test: Shards, learnt: Shards) -> set[str]:
    """Keys of the pairs of which every field that both have is among those learnt from."""
    fields = test.manifest.fields.keys() & learnt.manifest.fields.keys()
    return set.intersection(*({*_equal(test, learnt, field)} for field in fields)) if fields else set()


def _runs(weights: str) -> Iterator[tuple[Path, TrainedConfig | None]]:
    """The runs that led to some weights, with their configs; None where one is gone. Published weights have none."""
    try:
        path, config = origin(weights)
    except ConfigError:
        if not weights.startswith("package:") and not Path(weights).is_file():
            yield Path(weights), None
        return
    yield path, config
    for other in _before(config):
        yield from _runs(other)


def _record(path: Path, config: TrainedConfig) -> dict[str, Any]:
    """What a run said of itself when it began."""
    found = RunFolder.of(path, "", config, {}).before
    assert found is not None
    return found


def _seen(weights: str, key: str) -> dict[tuple[str, HeldOutConfig | None], Path]:
    """All pairs that led to some weights, as folder and what was held out of it, each with a run that saw them.

    Raises:
        ConfigError: they come from no finished run, whose config would say; or what that read is another now.
    """
    try:
        path, config = origin(weights)
    except ConfigError as error:
        raise ConfigError([f"{key}: {weights} is no folder of a finished run, so that nobody knows what it saw; take "
                           f"one, {VOUCH}"]) from error  # fmt: skip
    with within(key):
        _refuse_changed(path, config)
    found = {(config.data, getattr(config, "held_out", None)): path}
    for other in _before(config):
        found = _seen(other, key) | found
    return found


def _refuse_changed(path: Path, config: TrainedConfig) -> None:
    """Refuses a run that read something else than lies there now, so that what it saw cannot be told.

    Raises:
        ConfigError: names what differs.
    """
    run = _record(path, config)
    now = find_pipeline(run["pipeline"]).inputs(config)
    changed = [name for name in now if run["inputs"].get(name) != now[name]]
    if changed:
        raise ConfigError([f"{', '.join(changed)} of {path / 'config.yaml'} changed after it was trained, so that "
                           f"nobody knows what it saw; train it again, {VOUCH}"])  # fmt: skip


def _before(config: TrainedConfig) -> list[str]:
    """The weights that a run began from or was taught by."""
    if isinstance(config, pretrain.Config):
        begun = [encoder.weights for encoder in config.encoders.values()]
    elif isinstance(config, certify.Config):
        begun = [config.encoder.weights, config.teacher.weights if config.teacher else None]
    else:
        begun = [config.student.weights]
    if isinstance(config, transfer.Config):
        begun += [teacher.weights for teacher in config.teachers.values()]
    return [str(Path(weights)) for weights in begun if weights is not None]


def _shared(certified: Shards, learnt: Shards) -> dict[str, str]:
    """Keys of the certified pairs that are among those learnt from, with their keys there."""
    found = {key: key for key in _keys(certified) & _keys(learnt)}
    for field in certified.manifest.fields.keys() & learnt.manifest.fields.keys():
        found |= _equal(certified, learnt, field)
    return found


def _equal(ours: Shards, theirs: Shards, field: str) -> dict[str, str]:
    """Keys of the pairs of which a field has the bytes of another's among theirs, with that one's key."""
    known = dict(_contents(theirs, field))
    return {key: known[digest] for digest, key in _contents(ours, field) if digest in known}


def _keys(shards: Shards) -> set[str]:
    return {shards.locate(index)[1].key for index in range(len(shards))}


def _contents(shards: Shards, field: str) -> Iterator[tuple[bytes, str]]:
    """Digest of a field's bytes and key of every pair that has it."""
    member = shards.member(field)
    for index in range(len(shards)):
        row = shards.locate(index)[1]
        if member in row.members and not row.problems:
            yield hashlib.sha256(shards.read(index, [member])[1][member]).digest(), row.key


def origin(folder: str) -> tuple[Path, TrainedConfig]:
    """The run that a student is of, and its config.

    Raises:
        ConfigError: it is no finished run of a pipeline that trains.
    """
    for path in (Path(folder), Path(folder).parent):  # of several encoders, each has a folder in the run's
        schema = SCHEMAS.get(read_report(path).get("pipeline", ""))
        if schema is not None:
            return path, load(schema, path / "config.yaml", stored=True)
    raise ConfigError([f"students: {folder} must be the folder of a finished run of {', '.join(SCHEMAS)}"])
