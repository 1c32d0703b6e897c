"""NYU Depth v2 (Silberman et al. 2012, https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html): labelled RGB-D rooms.

The files, all in one folder:

- nyu_depth_v2_labeled.mat (2.8 GB), the labelled data set of the page above. MATLAB 7.3, with axes in reverse order:
  images [pictures, 3, width, height]; depths and rawDepths [pictures, width, height] in metres; labels [pictures,
  width, height] with 0 for unlabelled and 1 to 894; names, scenes and sceneTypes as cells of strings.
- splits.mat, the published division of the 1,449 pictures into 795 and 654 by scenes, from the authors' page of "Indoor
  Segmentation and Support Inference": trainNdxs and testNdxs, counted from 1. MATLAB 5.
- classMapping40.mat (Gupta et al. 2013), for 40 and 13 pixel classes: mapClass has the class, from 1, of each of the
  894 names, and className the 40 names. MATLAB 5.
- class13Mapping.mat (Couprie et al. 2013), for 13 pixel classes: classMapping13 has labels13, the class of each of the
  40, and classNames. MATLAB 5. It and the file above are in the repository ankurhanda/nyuv2-meta-data.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8, UInt16

from crossmodal.data.splits import take_share
from crossmodal.sources import Numbered, Pair, Source, SourceError
from crossmodal.sources.common.label_maps import encode_map
from crossmodal.sources.common.matlab import open_hdf5, read_strings, read_variables
from crossmodal.sources.common.stamps import digest_of
from modalities import MODALITIES, Modality
from modalities.codecs.raster import write_pixels
from modalities.common.catalogue import suggest

if TYPE_CHECKING:
    import h5py

DATA, SPLITS, MAP_40, MAP_13 = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat", "class13Mapping.mat"
FILES = {13: (DATA, SPLITS, MAP_40, MAP_13), 40: (DATA, SPLITS, MAP_40), 894: (DATA, SPLITS)}  # by pixel classes
ORIGINS = {
    DATA: "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",
    SPLITS: "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
    MAP_40: "https://github.com/ankurhanda/nyuv2-meta-data",
    MAP_13: "https://github.com/ankurhanda/nyuv2-meta-data",
}
DEPTHS = {"filled": "depths", "raw": "rawDepths"}
SIZE = (480, 640)  # height and width of the published pictures
REGION = (slice(44, 471), slice(40, 601))  # rows 45 to 471 and columns 41 to 601, counted from 1, as the toolbox has it
SCENES = (
    "bedroom",
    "kitchen",
    "living_room",
    "bathroom",
    "dining_room",
    "office",
    "home_office",
    "classroom",
    "bookstore",
)  # the nine most frequent types; the tenth class is "others" (Gupta et al. 2015, https://doi.org/10.1007/s11263-014-0777-6)


@dataclass(frozen=True)
class Nyuv2(Numbered, Source):
    """NYU Depth v2: 1,449 pictures of rooms with registered depth and a class for every pixel.

    `root` holds nyu_depth_v2_labeled.mat, splits.mat and, for 40 classes, classMapping40.mat; 13 classes need
    class13Mapping.mat too. Colour is kept to the bit, depth is rounded to millimetres (0: no reading), and pixels
    without a class are ignored. A pair's label is the type of its scene, and its group the scene ("kitchen_0004").

    Raises:
        SourceError: a file is missing, or an option is out of its range.
    """

    root: str  # folder with the .mat files
    pixel_classes: Literal[13, 40, 894] = 40  # classes of pixels: all 894 names, or the usual 40 or 13
    scene_classes: Literal[10, 27] = 10  # types of scene: all 27, or the nine most frequent and "others"
    depth: Literal["filled", "raw"] = "filled"  # holes filled by the authors, or as the sensor measured
    crop: bool = True  # cut 640 x 480 to the 561 x 427 pixels that both cameras see, without the white border
    validation_share: float = 0.0  # share of the training pictures, in whole scenes, for a split "validation"
    validation_seed: int = 0  # seed that draws the scenes of validation_share

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise SourceError(f"validation_share must be at least 0 and below 1, got {self.validation_share}")
        for name in FILES[self.pixel_classes]:
            if not self._path(name).is_file():
                raise SourceError(f"root: {self._path(name)} is missing; it comes from {ORIGINS[name]}")

    def fields(self) -> dict[str, Modality]:
        """Colour, depth in millimetres, and classes of pixels in the order of the mapping."""
        return {
            "rgb": MODALITIES.get("rgb")(),
            "depth": MODALITIES.get("depth")(scale_m=0.001),
            "labels": MODALITIES.get("labels")(classes=self._mapping[0], ignore=0),
        }

    def classes(self) -> tuple[str, ...]:
        """The types of scene."""
        return tuple(sorted({*self._types})) if self.scene_classes == 27 else (*SCENES, "others")

    def splits(self) -> tuple[str, ...]:
        """The published splits, "train" and "test", and "validation" if `validation_share` is set."""
        return tuple(self._parts)

    def digest(self) -> str:
        """A hash of the options and of each file's name, size and time; no file is read."""
        options = {name: value for name, value in asdict(self).items() if name != "root"}
        return digest_of(repr(options), (self._path(name) for name in FILES[self.pixel_classes]))

    def dropped(self) -> list[str]:
        """Empty: no picture is incomplete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pictures of a split, in the file's order; the key is the picture's number, counted from 1.

        Raises:
            SourceError: the split is unknown, or a file is of another version, damaged, or does not fit the others.
        """
        if split not in self._parts:
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self._parts))}")
        classes, fields = {name: label for label, name in enumerate(self.classes())}, self.fields()
        with self._open() as file:
            for place, number in enumerate(self._parts[split]):
                if not wanted(place):
                    continue
                try:
                    members = self._members(file, number, fields)
                except ValueError as error:
                    raise SourceError(f"{self._path(DATA)}: picture {number}: {error}") from error
                kind = self._types[number - 1]
                pair = Pair(
                    key=f"{number:04d}",
                    members=members,
                    label=classes[kind] if kind in classes else classes["others"],
                    group=self._scenes[number - 1],
                    facts={"number": number, "scene_type": kind},
                )
                yield place, pair

    def _members(self, file: "h5py.File", number: int, fields: Mapping[str, Modality]) -> dict[str, bytes]:
        metres = torch.from_numpy(self._picture(file, DEPTHS[self.depth], number))
        return {
            "rgb.png": write_pixels(self._picture(file, "images", number), "PNG"),
            "depth.png": fields["depth"].encode(metres[None]),
            "labels.png": encode_map(self._picture(file, "labels", number), self._mapping[1]),
        }

    def _path(self, name: str) -> Path:
        return Path(self.root) / name

    def _open(self) -> Any:
        return open_hdf5(self._path(DATA), ("images", DEPTHS[self.depth], "labels", "names", "scenes", "sceneTypes"))

    def _picture(self, file: "h5py.File", name: str, number: int) -> np.ndarray:
        """A picture [height, width] or [height, width, 3], as seen; `number` counts from 1."""
        picture = file[name][number - 1].T
        return np.ascontiguousarray(picture[REGION] if self.crop else picture)

    @cached_property
    def _described(self) -> tuple[list[str], list[str], list[str]]:
        """Names of the pixel classes, and scene and type of each picture, after a check of all sizes."""
        with self._open() as file:
            names, scenes, types = (read_strings(file, name) for name in ("names", "scenes", "sceneTypes"))
            images = file["images"].shape
            if len(images) != 4 or images[1] != 3:
                raise SourceError(f"{self._path(DATA)}: images must be pictures x 3 x width x height, got {images}")
            expected = {DEPTHS[self.depth]: (images[0], *images[2:]), "labels": (images[0], *images[2:])}
            for name, shape in expected.items():
                if file[name].shape != shape:
                    raise SourceError(f"{self._path(DATA)}: {name} must be of shape {shape}, got {file[name].shape}")
        for name, values in (("scenes", scenes), ("sceneTypes", types)):
            if len(values) != images[0]:
                raise SourceError(f"{self._path(DATA)}: {name} must name {images[0]} scenes, got {len(values)}")
        if self.crop and images[2:] != SIZE[::-1]:
            raise SourceError(
                f"{self._path(DATA)}: crop needs pictures of 640 x 480, got {images[2]} x {images[3]}; set crop: false"
            )
        return names, scenes, types

    @property
    def _scenes(self) -> list[str]:
        return self._described[1]

    @property
    def _types(self) -> list[str]:
        return self._described[2]

    @cached_property
    def _parts(self) -> dict[str, list[int]]:
        """The numbers of each split's pictures, counted from 1."""
        path, count = self._path(SPLITS), len(self._scenes)
        listed = read_variables(path, ("trainNdxs", "testNdxs"))
        train, test = (sorted(map(int, np.ravel(listed[name]))) for name in ("trainNdxs", "testNdxs"))
        if sorted(train + test) != [*range(1, count + 1)]:
            raise SourceError(
                f"{path} must name each of the {count} pictures of {DATA} once, from 1, got {len(train)} for training "
                f"and {len(test)} for testing, the highest {max(train + test, default=0)}"
            )
        if not self.validation_share:
            return {"train": train, "test": test}
        kinds = {name: label for label, name in enumerate(sorted({*self._types}))}
        held_out = take_share(
            [kinds[self._types[number - 1]] for number in train],
            [self._scenes[number - 1] for number in train],
            self.validation_share,
            seed=self.validation_seed,
        )
        validation = sorted(train[place] for place in held_out)
        if not 0 < len(validation) < len(train):
            raise SourceError(
                f"validation_share {self.validation_share} leaves {len(train) - len(validation)} of {len(train)} "
                "pictures for training; set another share"
            )
        return {"train": sorted({*train} - {*validation}), "validation": validation, "test": test}

    @cached_property
    def _mapping(self) -> tuple[tuple[str, ...], UInt8[np.ndarray, " stored"] | UInt16[np.ndarray, " stored"]]:
        """The names of the pixel classes, and the class, from 1, of each stored value; 0 for unlabelled."""
        names = self._described[0]
        classes = np.arange(len(names) + 1, dtype=np.uint16)
        if self.pixel_classes == 894:
            return tuple(names), classes
        listed = read_variables(path := self._path(MAP_40), ("mapClass", "className"))
        names_40, to_40 = _coarser(len(names), listed["mapClass"], listed["className"], f"{path}: mapClass")
        if self.pixel_classes == 40:
            return names_40, to_40
        listed = read_variables(path := self._path(MAP_13), ("classMapping13",))["classMapping13"]
        if not isinstance(listed, dict) or not {"labels13", "classNames"} <= listed.keys():
            raise SourceError(f"{path}: classMapping13 must be a structure with labels13 and classNames")
        names_13, to_13 = _coarser(len(names_40), listed["labels13"], listed["classNames"], f"{path}: labels13")
        return names_13, to_13[to_40]


def _coarser(count: int, mapped: Any, names: Any, where: str) -> tuple[tuple[str, ...], UInt8[np.ndarray, " stored"]]:
    """The names of a coarser set of classes, and the class in it, from 1, of each of `count` finer ones; 0 stays 0.

    Raises:
        SourceError: the mapping is not for this number of classes, or leads to one without a name.
    """
    mapped, names = np.ravel(mapped), tuple(map(str, np.ravel(names)))
    if len(mapped) != count or mapped.min() < 1 or mapped.max() > len(names):
        raise SourceError(
            f"{where} must map {count} classes to 1 to {len(names)}, which have names, got {len(mapped)} values "
            f"from {mapped.min()} to {mapped.max()}"
        )
    return names, np.concatenate([[0], mapped]).astype(np.uint8)
