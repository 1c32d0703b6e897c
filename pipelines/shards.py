"""Write paired shards from a source; check, describe and show them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.schemas.common import ViewConfig
from pipelines.schemas.shards import Config

if TYPE_CHECKING:
    from crossmodal.stores.paths import AnyPath
    from modalities import Modality

flags = {
    "--check": "read and decode every byte of a folder of shards and list all problems",
    "--check --pairing": "the same, and check on some pairs that their streams show the same scene at the same time",
    "--info": "describe a folder of shards: counts, fields, units, classes, statistics",
    "--sheet": "write a contact sheet (sheet.png) of a folder of shards",
}


def inputs(config: Config) -> Mapping[str, str]:
    """Digest of the input of the source."""
    from crossmodal import SOURCES
    from pipelines.config import at

    with at("source"):
        return {"source": SOURCES.get(config.source.name)(**config.source.options).digest()}


def run(config: Config, path: Path) -> None:
    """Writes the splits of the source as shards, each with a manifest."""
    from crossmodal import SOURCES
    from crossmodal.data.writer import write_shards
    from pipelines.config import ConfigError, at
    from pipelines.reporting.sheet import draw_sheet
    from pipelines.runs.console import progress_bar, say
    from pipelines.runs.folder import RunFolder, is_main

    run = RunFolder.open("shards", config, inputs)
    if run.is_done() or not is_main():
        return
    with at("source"):
        source = SOURCES.get(config.source.name)(**config.source.options)
        unknown = set(config.splits or ()) - set(source.splits())
    if unknown:
        raise ConfigError([f"splits must be among {', '.join(source.splits())}, got {', '.join(sorted(unknown))}"])
    _check_sheet(config.sheet, source.fields())
    run.begin()
    written, counts = {}, {}
    for split in config.splits or source.splits():
        with progress_bar(unit=" pairs", desc=f"{run.path.name}/{split}") as bar, at("source"):
            manifest = write_shards(
                source.pairs(split),
                run.path / split,
                fields=source.fields(),
                classes=source.classes(),
                pairs_per_shard=config.pairs_per_shard,
                partial=source.partial,
                progress=lambda number, bar=bar: bar.update(),  # type: ignore[misc]
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
    for warning in _unpaired(run.path / split for split in written) if config.pairing else ():
        say(warning)
    for split in written if config.sheet else ():
        draw_sheet(run.path / split, config.sheet)
    if dropped := source.dropped():
        more = f"; and {len(dropped) - 3} more" if dropped[3:] else ""
        say(f"{run.path}: {len(dropped)} pairs left out because a file is missing: {'; '.join(dropped[:3])}{more}")
    left_out = source.left_out()
    for reason, count in left_out.items():
        say(f"{run.path}: left out: {count} {reason}")
    _say_unmatched(source.unmatched(), run.path)
    run.finish({"figures": written, "dropped": len(dropped), "left_out": left_out})


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
    from pipelines.config.errors import printable
    from pipelines.reporting.sheet import draw_sheet

    subfolders = {file.parent for pattern in (MANIFEST, "*.tar") for file in path.glob(f"*/{pattern}")}
    folders = [path] if (path / MANIFEST).is_file() else sorted(subfolders)  # one without a manifest is an error
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
