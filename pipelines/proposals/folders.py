"""The proposal for a folder of paired files: patterns of their paths, found by what the paths have in common."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalities import DecodeError
from modalities.codecs.raster import read_pixels
from modalities.codecs.readings import read_numbers

SOUND = ("flac", "wav", "ogg")
PICTURES = ("png", "jpg", "jpeg")
WORDS = re.compile(r"^(.*?[0-9a-zA-Z])([._-][A-Za-z_.]*[A-Za-z][A-Za-z_.-]*)?\.([A-Za-z0-9]+)$")
MOST = 200_000  # files looked at


@dataclass(frozen=True)
class Files:
    """Files whose paths fit one pattern."""

    pattern: str  # "{group}/{key}.color.jpg"
    kind: str  # rgb, grey, depth, thermal, audio, pose
    keys: frozenset[tuple[str, ...]]
    example: Path


def find_files(root: Path) -> list[Files]:
    """The patterns that at least two files below a folder fit, those of most files first."""
    patterns: dict[str, dict[tuple[str, ...], Path]] = defaultdict(dict)
    for number, (folder, names, files) in enumerate(os.walk(root)):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if number > MOST:
            break
        parts = Path(folder).relative_to(root).parts
        for name in sorted(files):
            if not (match := WORDS.match(name)):
                continue
            key, rest, extension = match[1], match[2] or "", match[3]
            pattern = "/".join([*parts, f"{{key}}{rest}.{extension}"])
            patterns[pattern][(key,)] = Path(folder, name)
    found = []
    for pattern, paths in _joined(patterns).items():
        example = paths[sorted(paths)[len(paths) // 2]]
        if len(paths) > 1 and (kind := _kind(example, pattern)):
            found.append(Files(pattern, kind, frozenset(paths), example))
    return sorted(found, key=lambda files: (-len(files.keys), files.pattern))


def choose(found: list[Files]) -> dict[str, Files]:
    """The files of a pair by member: pictures, and the sensor with most equal keys; empty if there is none."""
    for teacher in [files for kind in ("rgb", "grey") for files in found if files.kind == kind]:
        others = [files for files in found if files.kind in ("depth", "thermal", "audio")]
        near = [(len(teacher.keys & files.keys), files) for files in others]
        count, partner = max(near, key=lambda pair: pair[0], default=(0, None))
        if partner is not None and count > 1:
            members = {"rgb": teacher, partner.kind: partner}
            poses = [files for files in found if files.kind == "pose" and len(files.keys & teacher.keys) > 1]
            return members | ({"pose": poses[0]} if poses else {})
    return {}


def _joined(patterns: dict[str, dict[tuple[str, ...], Path]]) -> dict[str, dict[tuple[str, ...], Path]]:
    """Patterns that differ in one folder only become one, with {group} for that folder."""
    joined: dict[str, dict[tuple[str, ...], Path]] = defaultdict(dict)
    alike: dict[tuple[int, str], list[str]] = defaultdict(list)
    for pattern in patterns:
        *folders, _ = parts = pattern.split("/")
        for place in range(len(folders)):
            alike[place, "/".join([*parts[:place], "{group}", *parts[place + 1 :]])].append(pattern)
    taken: set[str] = set()
    for (place, wider), fitting in sorted(alike.items(), key=lambda item: -len(item[1])):
        kinds = {_sensor(pattern.split("/")[place]) for pattern in fitting}
        if len(fitting) < 2 or kinds != {False} or taken & {*fitting}:
            continue
        taken |= {*fitting}
        for pattern in fitting:
            group = pattern.split("/")[place]
            joined[wider] |= {(group, *key): path for key, path in patterns[pattern].items()}
    return joined | {pattern: paths for pattern, paths in patterns.items() if pattern not in taken}


def _sensor(folder: str) -> bool:
    """True if a folder's name is that of a sensor, so that it tells files of a pair apart."""
    return bool(
        re.search(r"rgb|colou?r|depth|image|img|thermal|infrared|audio|sound|pose|left|right|cam", folder, re.I)
    )


def _kind(path: Path, pattern: str) -> str:
    """The kind of a file; empty if no modality reads it."""
    extension = path.suffix[1:].lower()
    thermal = bool(re.search("thermal|infrared|lwir", pattern, re.I))
    if extension in SOUND:
        return "audio"
    if extension == "txt":
        return "pose" if _is_pose(path) else ""
    try:
        if extension in PICTURES:
            pixels = read_pixels(path.read_bytes())
        else:
            pixels = read_numbers(path.read_bytes(), what="a map", preview="")[0]
    except (DecodeError, OSError):
        return ""
    if pixels.ndim == 3 or pixels.dtype == np.uint8:
        return "rgb" if pixels.ndim == 3 else "grey"
    return "thermal" if thermal else "depth"


def _is_pose(path: Path) -> bool:
    try:
        return len([float(word) for word in path.read_text(encoding="utf-8").split()]) == 16
    except (OSError, ValueError):
        return False


def members_of(chosen: dict[str, Files]) -> dict[str, dict[str, Any]]:
    """The members of the folder source."""
    return {name: {"modality": name, "files": files.pattern} for name, files in chosen.items() if name != "pose"}
