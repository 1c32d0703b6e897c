"""Write paired shards from a source; check, describe and show them."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.schemas.common import ViewConfig
from pipelines.schemas.shards import Config

if TYPE_CHECKING:
    from crossmodal.data.joining import Packing
    from crossmodal.sources import Source
    from crossmodal.stores.paths import AnyPath
    from modalities import Modality
    from pipelines.runs.folder import RunFolder

flags = {
    "--check": "read and decode every byte of a folder of shards and list all problems",
    "--check --pairing": "the same, and check on some pairs that their streams show the same scene at the same time",
    "--info": "describe a folder of shards: counts, fields, units, classes, statistics",
    "--index": "write the indexes that a folder of shards lacks; of WebDataset tars by other programs the manifest too",
    "--sheet": "write a contact sheet (sheet.png) of a folder of shards",
}
actions = {
    "--part": "K/N: pack part K of N, in any process on any machine; it ignores the launcher",
    "--join": "check that all parts are there and complete the folder",
}


def inputs(config: Config) -> Mapping[str, str]:
    """Digest of the input of the source."""
    from crossmodal import SOURCES
    from pipelines.config import at

    with at("source"):
        return {"source": SOURCES.get(config.source.name)(**config.source.options).digest()}


def run(config: Config, path: Path) -> None:
    """Writes the splits of the source as shards, each with a manifest."""
    from pipelines.runs.folder import RunFolder, is_main

    run = RunFolder.open("shards", config, inputs)
    if run.is_done() or not is_main():
        return
    source, splits = _open_source(config)
    run.begin()
    _pack(run, source, splits, 0, 1)
    _join(run, source, splits)


def act(action: str, config: Config) -> None:
    """Packs a part of the shards, or joins the parts; several of these processes know nothing of each other.

    Args:
        action: "part=3/64", or "join".
        config: of the whole.

    Raises:
        ConfigError: the part is not such a text, or the folder holds another run.
        ShardError: a part is missing, or of another source.
    """
    from pipelines.building.settling import settle
    from pipelines.config import ConfigError
    from pipelines.runs.console import say
    from pipelines.runs.folder import RunFolder

    part, parts = _read_part(action)
    config = settle(config)
    run = RunFolder.of(config.output, "shards", config, inputs(config))
    if run.is_done():
        return
    source, splits = _open_source(config)
    if action == "join":
        if not run.path.is_dir():
            raise ConfigError([f"output {run.path}: there is no such folder, so no part of it was packed"])
        run.begin("joining the parts")
        _join(run, source, splits)
        return
    run.begin_part(f"{part + 1}-of-{parts}")
    _pack(run, source, splits, part, parts)
    say(f"{run.path}: part {part + 1} of {parts} is packed; after the last: crossmodal shards CONFIG --join")


def _read_part(action: str) -> tuple[int, int]:
    """The number of a part, from 0, and the number of parts."""
    from pipelines.config import ConfigError

    part, slash, parts = action.removeprefix("part=").partition("/")
    if action == "join":
        return 0, 1
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError([f"--part must be a number from 1 to the number of parts, such as 3/64, got {action[5:]!r}"])
    return int(part) - 1, int(parts)


def _open_source(config: Config) -> tuple["Source", list[str]]:
    """The source and the splits to write."""
    from crossmodal import SOURCES
    from pipelines.config import ConfigError, at

    with at("source"):
        source = SOURCES.get(config.source.name)(**config.source.options)
        unknown = set(config.splits or ()) - set(source.splits())
    if unknown:
        raise ConfigError([f"splits must be among {', '.join(source.splits())}, got {', '.join(sorted(unknown))}"])
    _check_sheet(config.sheet, source.fields())
    return source, [*(config.splits or source.splits())]


def _packing(run: "RunFolder", source: "Source", split: str) -> "Packing":
    from crossmodal.data.joining import Packing
    from pipelines.runs.folder import digest_of

    origin = digest_of([run.inputs["source"], split, run.config.pairs_per_shard])
    return Packing(
        run.path / split, source.fields(), source.classes(), run.config.pairs_per_shard, source.partial, origin
    )


def _pack(run: "RunFolder", source: "Source", splits: list[str], part: int, parts: int) -> None:
    """Packs the shards of a part that are not finished."""
    from crossmodal.data.processes import write_by
    from pipelines.config import at
    from pipelines.runs.console import progress_bar

    for split in splits:
        with progress_bar(unit=" pairs", desc=f"{run.path.name}/{split}") as bar, at("source"):
            write_by(
                run.config.workers,
                partial(source.numbered, split),
                _packing(run, source, split),
                part=part,
                parts=parts,
                progress=bar.update,
            )


def _join(run: "RunFolder", source: "Source", splits: list[str]) -> None:
    """Writes the manifests and the report."""
    from crossmodal.data.joining import join_parts, remove_marks
    from pipelines.reporting.sheet import draw_sheet
    from pipelines.runs.console import say

    written, counts = {}, {}
    for split in splits:
        manifest = join_parts(
            _packing(run, source, split),
            warn=lambda warning, split=split: say(f"{run.path / split}: {warning}"),  # type: ignore[misc]
        )
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        lacking = "".join(f"; {count} without {name}" for name, count in manifest.lacking.items())
        lacking += "".join(f"; none has {name}" for name in source.fields() if name not in manifest.fields)
        say(f"{run.path / split}: {manifest.pairs} pairs in {len(manifest.shards)} shards, {size:.1f} MB{lacking}")
        counts[split] = {name: manifest.labels.get(name, 0) for name in manifest.classes}
        written[split] = {"pairs": manifest.pairs, "megabytes": round(size, 2), "digest": manifest.digest}
    for warning in [*_unbalanced(counts, run.path), *_absent(counts, run.path)]:
        say(warning)
    for warning in _unpaired(run.path / split for split in written) if run.config.pairing else ():
        say(warning)
    for split in written if run.config.sheet else ():
        draw_sheet(run.path / split, run.config.sheet)
    if dropped := source.dropped():
        more = f"; and {len(dropped) - 3} more" if dropped[3:] else ""
        say(f"{run.path}: {len(dropped)} pairs left out because a file is missing: {'; '.join(dropped[:3])}{more}")
    left_out = source.left_out()
    for reason, count in left_out.items():
        say(f"{run.path}: left out: {count} {reason}")
    _say_unmatched(source.unmatched(), run.path)
    run.finish({"figures": written, "dropped": len(dropped), "left_out": left_out})
    for split in splits:  # only now: a join that failed at a later split or step can be repeated
        remove_marks(run.path / split)


def _say_unmatched(unmatched: Mapping[Path, str], output: Path) -> None:
    """Prints how many files outside the output belong to no pair, with three examples, those with a reason first."""
    from pipelines.runs.console import say

    others = [(path, why) for path, why in unmatched.items() if not path.absolute().is_relative_to(output.absolute())]
    if others:
        shown = sorted(others, key=lambda other: not other[1])[:3]
        examples = "; ".join(f"{path} ({why})" if why else str(path) for path, why in shown)
        more = f"; and {len(others) - 3} more" if others[3:] else ""
        say(f"{output}: {len(others)} files below the source's root belong to no pair: {examples}{more}")


def inspect(flag: str, path: "AnyPath") -> int:
    """Describes, checks or draws shards; returns 1 if --check finds a problem."""
    from crossmodal.data.manifest import MANIFEST, ShardError, read_manifest
    from crossmodal.data.verify import check
    from pipelines.config.errors import ConfigError, printable
    from pipelines.reporting.sheet import draw_sheet

    if flag == "--index":
        if not isinstance(path, Path):
            raise ConfigError(
                [f"shards --index: {path} must be a local folder; make the indexes there, then copy them"]
            )
        return _index(path)
    folders = [path]
    if not (path / MANIFEST).is_file():  # only now, because a web server may not list a folder
        files = (file for pattern in (MANIFEST, "*.tar") for file in path.glob(f"*/{pattern}"))
        folders = sorted({file.parent for file in files})  # one without a manifest is an error
    if not folders:
        raise ShardError(f"{path} holds no shards: there is no {MANIFEST} in it or one level below")
    if flag.startswith("--check"):
        problems = [
            problem for folder in folders for problem in check(folder, warn=lambda warning: print(printable(warning)))
        ]
        if not problems:
            manifests = {folder.name: read_manifest(folder) for folder in folders}
            counts = {
                part: {name: each.labels.get(name, 0) for name in each.classes} for part, each in manifests.items()
            }
            for warning in [*_unbalanced(counts, folders[0].parent), *_absent(counts, path)]:
                print(printable(warning))
        if flag == "--check --pairing" and not problems:
            for warning in _unpaired(folders):
                print(printable(warning))
        print(printable("\n".join(problems) or f"{path}: nothing wrong"))
        return 1 if problems else 0
    for folder in folders:
        if flag == "--info":
            print(printable(_describe(folder)))
        else:
            print(printable(str(draw_sheet(folder, {}))))
    return 0


def _index(path: Path) -> int:
    """Writes indexes and manifests that are missing."""
    from crossmodal.data.indexing import index_folder
    from crossmodal.data.manifest import MANIFEST, ShardError
    from pipelines.config.errors import printable
    from pipelines.runs.folder import RunFolder

    places = [path, *sorted(folder for folder in path.glob("*") if folder.is_dir())]
    folders = [folder for folder in places if (folder / MANIFEST).is_file() or any(folder.glob("*.tar"))]
    if not folders:
        raise ShardError(f"{path} holds no shards: there is no tar in it or one level below")
    for folder in folders:
        try:
            print(printable(index_folder(folder)))
        finally:  # also of a folder in which some tars are damaged, or it would seem changed
            if (folder / MANIFEST).is_file():
                RunFolder.record_size(folder / MANIFEST)
    return 0


def _unpaired(folders: Iterable["AnyPath"]) -> Iterator[str]:
    """Warnings about streams that do not show the same scene at the same time."""
    from crossmodal.data.pairing import check_pairing
    from crossmodal.data.shards import Shards

    for folder in folders:
        yield from check_pairing(Shards.open(folder))


def _unbalanced(counts: Mapping[str, Mapping[str, int]], path: "AnyPath") -> list[str]:
    """Warnings about parts of the folder whose largest class has several times the pairs of the smallest."""
    from crossmodal.data.splits import unbalanced_classes

    return [line for part, labels in counts.items() for line in unbalanced_classes(labels, str(path / part))]


def _absent(counts: Mapping[str, Mapping[str, int]], path: "AnyPath") -> list[str]:
    """Warnings about classes that only train or only another split of the folder has."""
    from crossmodal.data.splits import absent_classes

    names = [part for part in counts if part != "train" and "train" in counts]
    warnings = [absent_classes(counts["train"], counts[part], trained="train", judged=part) for part in names]
    return [f"{path}: {line}" for lines in warnings for line in lines]


def _describe(folder: "AnyPath") -> str:
    from crossmodal.data.manifest import read_manifest

    manifest = read_manifest(folder)
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    lines = [
        f"{folder}: {manifest.pairs} pairs in {len(manifest.shards)} shards, {size:.1f} MB, {manifest.digest[:12]}"
    ]
    for name, spec in manifest.fields.items():
        values = {key: ",".join(value) if isinstance(value, tuple) else value for key, value in spec.stored.items()}
        stored = "".join(f" {key}={value}" for key, value in values.items() if value not in ("", None))
        figures = ", ".join(f"{key} {value:.4g}" for key, value in manifest.statistics[name].items())
        lines.append(f"  {name}.{spec.extension}: {spec.modality}{stored}; {figures}")
    if manifest.classes:
        counts = ", ".join(f"{name} {manifest.labels.get(name, 0)}" for name in manifest.classes)
        bare = manifest.pairs - sum(manifest.labels.values())
        lines.append(
            f"  {len(manifest.classes)} classes: {counts}" + (f"; {bare} pairs without a label" if bare else "")
        )
    if manifest.lacking:
        lines.append("  without: " + ", ".join(f"{name} {count}" for name, count in manifest.lacking.items()))
    if manifest.unlisted_groups:
        lines.append(f"  {manifest.unlisted_groups} groups")
    if manifest.groups:
        lines.append("  groups: " + ", ".join(f"{name} {count}" for name, count in manifest.groups.items()))
    return "\n".join(lines)


def _check_sheet(views: Mapping[str, ViewConfig], fields: Mapping[str, "Modality"]) -> None:
    """Checks the views before any shard is written; only whether a view fits the signals shows later."""
    from modalities import MODALITIES
    from pipelines.config import at

    for name, view in views.items():
        with at(f"sheet.{name}"):
            field = MODALITIES.get(view.modality)(**view.options).field
            if field not in fields:
                raise ValueError(f"modality {view.modality!r} reads {field!r}, but the source has {', '.join(fields)}")
