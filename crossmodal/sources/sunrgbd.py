"""SUN RGB-D (Song et al. 2015, https://rgbd.cs.princeton.edu): 10,335 labelled RGB-D pictures of four cameras.

The folder holds the two published archives, unpacked:

- SUNRGBD/ of SUNRGBD.zip: a folder for each picture, such as kv1/NYUdata/NYU0001, with one file in each of image/
  (JPEG), depth/ (as measured) and depth_bfx/ (holes filled), and scene.txt. Depth is a 16-bit PNG of millimetres whose
  bits are rotated to the left by 3.
- SUNRGBDtoolbox/ of SUNRGBDtoolbox.zip: Metadata/SUNRGBDMeta.mat (MATLAB 5) lists the pictures with rgbpath, rgbname
  and depthname. In the same order, Metadata/SUNRGBD2Dseg.mat (7.3) has the class of every pixel in seglabel, 0 for none
  and 1 to 37. Metadata/seg37list.mat (5) has their names, and traintestSUNRGBD/allsplit.mat (5) the published division:
  alltrain, alltest, and trainvalsplit with train and val. Paths in these files begin with a folder of the authors.
  The division cuts 17 of the walks through rooms in xtion/sun3ddata.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8, UInt16

from crossmodal.sources import Numbered, Pair, Source, SourceError
from crossmodal.sources.common.label_maps import encode_map
from crossmodal.sources.common.matlab import open_hdf5, read_variables
from crossmodal.sources.common.stamps import digest_of
from modalities import MODALITIES, DecodeError, Modality
from modalities.codecs.raster import describe, read_pixels, write_pixels
from modalities.common.catalogue import suggest

PICTURES, METADATA = "SUNRGBD", "SUNRGBDtoolbox/Metadata"
META, LABELS, NAMES = (f"{METADATA}/{name}.mat" for name in ("SUNRGBDMeta", "SUNRGBD2Dseg", "seg37list"))
SPLITS = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
ARCHIVES = {PICTURES: "SUNRGBD.zip", "SUNRGBDtoolbox": "SUNRGBDtoolbox.zip"}
DEPTHS = {"filled": "depth_bfx", "raw": "depth"}
FARTHEST_MM = 8000  # the toolbox's read3dPoints.m stores farther readings as 8 m, and so does this source
SCENES = (
    "bathroom",
    "bedroom",
    "classroom",
    "computer_room",
    "conference_room",
    "corridor",
    "dining_area",
    "dining_room",
    "discussion_area",
    "furniture_store",
    "home_office",
    "kitchen",
    "lab",
    "lecture_theatre",
    "library",
    "living_room",
    "office",
    "rest_space",
    "study_space",
)  # the types with more than 80 pictures, which the paper classifies


@dataclass(frozen=True)
class Frame:
    """A picture of the data set."""

    number: int  # position in SUNRGBDMeta.mat, from 1
    folder: str  # below SUNRGBD, such as "kv1/NYUdata/NYU0001"
    rgb: str  # name of the file in image/
    depth: str  # name of the file in depth/ and depth_bfx/


@dataclass(frozen=True)
class SunRgbd(Numbered, Source):
    """SUN RGB-D: 10,335 pictures of rooms with registered depth and one of 37 classes for every pixel.

    `root` holds the folders SUNRGBD and SUNRGBDtoolbox, as the two archives unpack. Colour is packed byte for byte. The
    rotation of the bits of depth is undone; readings beyond 8 m become 8 m, as in the authors' toolbox. Pixels without
    a class are ignored. A pair's label is the type of its scene, and its group the room if the folder tells it.

    Raises:
        SourceError: a folder or file is missing.
    """

    root: str  # folder with SUNRGBD and SUNRGBDtoolbox
    depth: Literal["filled", "raw"] = "filled"  # depth_bfx, with holes filled, or depth, as the sensor measured
    validation: bool = False  # divide the published training part, as published, into "train" and "validation"

    def __post_init__(self) -> None:
        for folder, archive in ARCHIVES.items():
            if not (Path(self.root) / folder).is_dir():
                raise SourceError(
                    f"root: {Path(self.root).absolute()} has no folder {folder}; fetch and unpack {archive} from "
                    "https://rgbd.cs.princeton.edu"
                )
        for name in (META, LABELS, NAMES, SPLITS):
            if not (Path(self.root) / name).is_file():
                raise SourceError(f"root: {Path(self.root) / name} is missing; unpack SUNRGBDtoolbox.zip again")

    def fields(self) -> dict[str, Modality]:
        """Colour, depth in millimetres, and classes of pixels in the order of seg37list.mat."""
        return {
            "rgb": MODALITIES.get("rgb")(),
            "depth": MODALITIES.get("depth")(scale_m=0.001),
            "labels": MODALITIES.get("labels")(classes=self._pixel_names, ignore=0),
        }

    def classes(self) -> tuple[str, ...]:
        """The 19 types of scene with more than 80 pictures; a picture of another type has no label."""
        return SCENES

    def splits(self) -> tuple[str, ...]:
        """The published splits, "train" and "test", and "validation" if that is set."""
        return tuple(self._parts)

    def digest(self) -> str:
        """A hash of the options and of each file's name, size and time.

        Raises:
            SourceError: a picture's file is missing, or SUNRGBDMeta.mat cannot be read.
        """
        options = {name: value for name, value in asdict(self).items() if name != "root"}
        paths = [Path(self.root) / name for name in (META, LABELS, NAMES, SPLITS)]
        for frame in self._frames.values():
            paths += self._paths(frame).values()
        try:
            return digest_of(repr(options), paths)
        except FileNotFoundError as error:
            raise SourceError(f"root: {error.filename} is missing; unpack SUNRGBD.zip again") from error

    def dropped(self) -> list[str]:
        """Empty: no picture is incomplete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pictures of a split; the key is the position in SUNRGBDMeta.mat, counted from 1.

        Raises:
            SourceError: the split is unknown, or a file is missing, of another format or version, damaged, or does not
                fit the others.
        """
        if split not in self._parts:
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self._parts))}")
        with open_hdf5(labels := Path(self.root) / LABELS, ("SUNRGBD2Dseg",)) as file:
            maps = file["SUNRGBD2Dseg"]["seglabel"]
            if maps.size != len(self._frames):
                raise SourceError(f"{labels} has {maps.size} maps, but {META} lists {len(self._frames)} pictures")
            references = np.ravel(maps)
            for number, frame in enumerate(self._parts[split]):
                if not wanted(number):
                    continue
                try:
                    classes = encode_map(file[references[frame.number - 1]][()].T.astype(np.int64), self._table)
                except SourceError as error:
                    raise SourceError(f"{labels}: picture {frame.number}: {error}") from error
                yield number, self._pair(frame, classes)

    def _pair(self, frame: Frame, classes: bytes) -> Pair:
        paths = self._paths(frame)
        scene = _read(paths["scene"]).decode("utf-8", "replace").strip()
        depth = write_pixels(_read_depth(paths["depth"]), "PNG")
        return Pair(
            key=f"{frame.number:05d}",
            members={"rgb.jpg": _read(paths["rgb"]), "depth.png": depth, "labels.png": classes},
            label=SCENES.index(scene) if scene in SCENES else -1,
            group=_room(frame),
            facts={"number": frame.number, "folder": frame.folder, "scene_type": scene},
            paths={"rgb.jpg": str(paths["rgb"]), "depth.png": str(paths["depth"])},
        )

    def _paths(self, frame: Frame) -> dict[str, Path]:
        folder = Path(self.root) / PICTURES / frame.folder
        return {
            "rgb": folder / "image" / frame.rgb,
            "depth": folder / DEPTHS[self.depth] / frame.depth,
            "scene": folder / "scene.txt",
        }

    @cached_property
    def _frames(self) -> Mapping[str, Frame]:
        path = Path(self.root) / META
        status = path.stat()
        return _read_frames(path, status.st_size, status.st_mtime_ns)

    @cached_property
    def _parts(self) -> dict[str, list[Frame]]:
        listed = read_variables(path := Path(self.root) / SPLITS, ("alltrain", "alltest", "trainvalsplit"))
        folders = {"train": listed["alltrain"], "test": listed["alltest"]}
        if self.validation:
            if not isinstance(part := listed["trainvalsplit"], dict) or not {"train", "val"} <= part.keys():
                raise SourceError(f"{path}: trainvalsplit must be a structure with train and val")
            folders = {"train": part["train"], "validation": part["val"], "test": listed["alltest"]}
        parts: dict[str, list[Frame]] = {}
        seen: dict[str, str] = {}
        for split, entries in folders.items():
            parts[split] = []
            for entry in np.ravel(entries):
                folder = _below_pictures(str(entry), path)
                if folder not in self._frames:
                    raise SourceError(f"{path}: {split} lists {folder}, which {META} does not have")
                if folder in seen:
                    raise SourceError(f"{path} lists {folder} twice, in {seen[folder]} and {split}")
                seen[folder] = split
                parts[split].append(self._frames[folder])
        return parts

    @cached_property
    def _pixel_names(self) -> tuple[str, ...]:
        path = Path(self.root) / NAMES
        return tuple(map(str, np.ravel(read_variables(path, ("seg37list",))["seg37list"])))

    @property
    def _table(self) -> UInt8[np.ndarray, " stored"]:
        """The class of each stored value, which is itself."""
        return np.arange(len(self._pixel_names) + 1, dtype=np.uint8)


@lru_cache(maxsize=2)
def _read_frames(path: Path, size: int, time_ns: int) -> dict[str, Frame]:
    """The pictures by their folder; with all their boxes the file takes seconds to read."""
    frames: dict[str, Frame] = {}
    for number, entry in enumerate(np.ravel(read_variables(path, ("SUNRGBDMeta",))["SUNRGBDMeta"]), 1):
        try:
            rgb, name, depth = (str(entry[field]) for field in ("rgbpath", "rgbname", "depthname"))
        except (KeyError, TypeError, IndexError) as error:
            raise SourceError(f"{path}: SUNRGBDMeta must have rgbpath, rgbname and depthname") from error
        folder = _below_pictures(str(Path(rgb).parent.parent), path)
        frames[folder] = Frame(number, folder, name, depth)
    return frames


def _below_pictures(entry: str, path: Path) -> str:
    """A folder relative to SUNRGBD; the files have paths of the authors' machine, some with a slash at the end.

    Raises:
        SourceError: the folder SUNRGBD is not in it.
    """
    parts = [part for part in entry.split("/") if part]
    if PICTURES not in parts:
        raise SourceError(f"{path}: paths must have a folder {PICTURES}, got {entry!r}")
    return "/".join(parts[parts.index(PICTURES) + 1 :])


def _room(frame: Frame) -> str:
    """The folder of a walk through one room, whose pictures resemble each other; other pictures are on their own."""
    folder = Path(frame.folder)
    return str(folder.parent if "sun3ddata" in folder.parts else folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _read_depth(path: Path) -> UInt16[np.ndarray, "height width"]:
    """Millimetres, 0 where there is no reading."""
    payload = _read(path)
    try:
        stored = read_pixels(payload)
    except DecodeError as error:
        raise SourceError(f"{path}: {error}") from error
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise SourceError(f"{path}: depth must be a 16-bit single-channel PNG, got {describe(payload)}")
    return np.minimum(stored >> 3 | stored << 13, np.uint16(FARTHEST_MM))
