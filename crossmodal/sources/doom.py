"""Colour, depth and sound of creatures in a game, recorded with ViZDoom in Freedoom's levels.

The splits "train" and "validation" use different levels of Freedoom Phase 2. The split "test" uses levels of Phase 1,
another game with the same creatures. Choose settings on the validation split and report results on the test split.

ViZDoom (Wydmuch, Kempka and Jaskowski 2018, https://arxiv.org/abs/1809.03470) renders without a display. Depth comes
from its 8-bit buffer: fitted on 1,844 objects of four levels at 0.7 to 29 m, the distance along the view axis is
7.342 value + 5.265 map units, that is ``0.2294 value + 0.1645`` metres, with an error of at most 0.12 m (rms 0.066 m,
which is the quantisation). 127 marks the sky, 255 the far limit and 0 a surface too near; these give no reading.

The engine's labels buffer tells floors and ceilings, walls and sky, and every thing apart. The few walls 29.2 to 29.4 m
away have the depth of the sky, and are labelled so.
"""

import ctypes.util
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from crossmodal.sources import Numbered, Pair, Source, SourceError
from crossmodal.sources.common.doom_game import CREATURES, SCENERY, SKY, TICS_PER_S, Session
from modalities import Modality
from modalities.audio import Audio
from modalities.common.catalogue import suggest
from modalities.depth import Depth
from modalities.labels import Labels
from modalities.rgb import Rgb

# Every third level is for validation, so both splits have all of Phase 2's themes. 7, 30, 31 and 32 are special.
VALIDATION_LEVELS = tuple(f"MAP{number:02d}" for number in range(3, 30, 3))
TRAIN_LEVELS = tuple(name for n in range(1, 30) if n != 7 and (name := f"MAP{n:02d}") not in VALIDATION_LEVELS)
TEST_LEVELS = tuple(f"E{episode}M{number}" for number in (2, 4, 6) for episode in (1, 2, 3, 4))  # of Phase 1
LEVELS = {"train": TRAIN_LEVELS, "validation": VALIDATION_LEVELS, "test": TEST_LEVELS}
GAME_WAD, TEST_WAD = "freedoom2.wad", "freedoom1.wad"  # art and sounds are Phase 2's in all splits
VIEWS = ("rgb", "depth", "audio", "labels")
_RATES_HZ = (11025, 22050, 44100)  # the rates the engine can record
_PAIRS_PER_RUN = 75  # in one level per run of the engine: five of each creature
_RUN_LIMIT_S = 300  # a run normally takes three seconds
_GAME = Path(__file__).parent / "common" / "doom_game.py"
_OPENAL_PACKAGES = {"cyal": "libopenal.so*", "pyalsoft": "_native/libopenal.so*"}  # package -> path of the library
_INSTALL = "pip install 'crossmodal-transfer[doom]'"


@dataclass(frozen=True)
class Doom(Numbered, Source):
    """Colour, depth, class maps and stereo sound of 15 kinds of creature in the levels of a free game (Freedoom).

    Each pair shows one creature, which was placed in a level and then woke, walked and called. The picture is cropped
    around it, as a detector would. The three splits use different levels: choose settings on "validation" and report
    "test". The classes of pixels are wall, floor, ceiling, sky, object (a tree, a box of ammunition) and the creature.
    A pair also has the facts "distance_m" (along the view axis), "bearing_rad" (positive to the right), "crop" (left,
    top, right, bottom in the engine's 320 x 240 picture) and "seed" (the seed of the engine's run).

    Raises:
        SourceError: an option is out of its range.
    """

    views: tuple[str, ...] = VIEWS  # what to record: any of rgb, depth, audio and labels
    train_pairs: int = 3000  # pairs in the split "train"; a larger number starts with the same pairs
    validation_pairs: int = 900  # pairs in the split "validation"
    test_pairs: int = 900  # pairs in the split "test"
    size: int = 64  # side of the stored pictures, in pixels
    rate_hz: int = 11025  # sampling rate of the stored sound: 11025, 22050 or 44100
    sound_s: float = 1.0  # seconds of sound, which end when the picture is taken
    near_m: float = 2.0  # minimum distance from the camera to the creature's edge, in metres, when it is placed
    far_m: float = 8.0  # maximum such distance, in metres
    creature_labels: Literal["one", "kinds"] = "one"  # in labels: one class for all creatures, or one for each kind
    crop: tuple[float, float] = (1.15, 1.7)  # range of the picture's side relative to the creature's larger side
    seed: int = 0  # seed of everything random
    processes: int = 2  # number of games that run at the same time; the pairs do not depend on it

    def __post_init__(self) -> None:
        unknown = sorted(set(self.views) - set(VIEWS))
        checks = (
            ("mask" not in self.views, "views: mask is now labels; its class creature is the mask"),
            (not unknown, f"views must be among {', '.join(VIEWS)}, got {', '.join(unknown)}"),
            (bool(set(self.views) - {"labels"}), "views must name at least one of rgb, depth and audio"),
            (self.train_pairs > 0, f"train_pairs must be above 0, got {self.train_pairs}"),
            (self.validation_pairs > 0, f"validation_pairs must be above 0, got {self.validation_pairs}"),
            (self.test_pairs > 0, f"test_pairs must be above 0, got {self.test_pairs}"),
            (8 <= self.size <= 240, f"size must be from 8 to 240 pixels, got {self.size}"),
            (self.rate_hz in _RATES_HZ, f"rate_hz must be one of {_RATES_HZ}, got {self.rate_hz}"),
            (0.1 <= self.sound_s <= 3, f"sound_s must be from 0.1 to 3 seconds, got {self.sound_s}"),
            (
                0.5 <= self.near_m < self.far_m <= 25,
                f"near_m and far_m must satisfy 0.5 <= near_m < far_m <= 25, got {self.near_m} and {self.far_m}",
            ),
            (1 <= self.crop[0] <= self.crop[1] <= 4, f"crop must be from 1 to 4, low to high, got {self.crop}"),
            (0 <= self.seed < 2**32, f"seed must be from 0 to 2**32 - 1, got {self.seed}"),
            (self.processes > 0, f"processes must be above 0, got {self.processes}"),
        )
        for fulfilled, message in checks:
            if not fulfilled:
                raise SourceError(message)

    def fields(self) -> dict[str, Modality]:
        """Colour, depth in steps of 1 mm, stereo sound and class maps, as far as `views` has them."""
        every: dict[str, Modality] = {
            "rgb": Rgb(size=self.size),
            "depth": Depth(size=self.size, scale_m=0.001),
            "audio": Audio(rate_hz=self.rate_hz, channels=2),
            "labels": Labels(size=self.size, classes=(*SCENERY, *self._creatures)),
        }
        return {name: modality for name, modality in every.items() if name in self.views}

    def classes(self) -> tuple[str, ...]:
        """The kinds of creature."""
        return tuple(CREATURES)

    def splits(self) -> tuple[str, ...]:
        """The splits "train", "validation" (to choose settings) and "test" (to report results)."""
        return tuple(LEVELS)

    def digest(self) -> str:
        """A hash of the options, the engine's version and the levels.

        Raises:
            SourceError: the engine is not installed.
        """
        sizes = [_wad(name).stat().st_size for name in (GAME_WAD, TEST_WAD)]
        left_out = {"processes"} | ({"creature_labels"} if self.creature_labels == "one" else set())
        options = {name: value for name, value in asdict(self).items() if name not in left_out}
        content = json.dumps([options, version("vizdoom"), sizes, LEVELS], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def dropped(self) -> list[str]:
        """Empty: every pair is complete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pairs of a split, level by level; the classes take turns.

        A run of the engine gives `_PAIRS_PER_RUN` pairs; it is left out if none of them is wanted.

        Raises:
            SourceError: the split is unknown, or the engine or its sound library is not installed or failed.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        sessions, numbers = list[Session](), set[int]()
        for session in self._sessions(split):
            own = {*filter(wanted, range(session.first, session.first + len(session.creatures)))}
            sessions += [session] if own else []
            numbers |= own
        with (
            tempfile.TemporaryDirectory(prefix="crossmodal-doom-") as folder,
            ThreadPoolExecutor(self.processes) as pool,
        ):
            environment = _environment(Path(folder), with_sound="audio" in self.views)
            runs = pool.map(lambda session: self._play(session, Path(folder), environment), sessions)
            try:
                for session, played in zip(sessions, runs, strict=True):
                    yield from (item for item in enumerate(played, session.first) if item[0] in numbers)
            finally:  # also if the caller stops early
                pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _creatures(self) -> tuple[str, ...]:
        """The classes of creatures in labels."""
        return ("creature",) if self.creature_labels == "one" else self.classes()

    def _sessions(self, split: str) -> list[Session]:
        """The independent runs of the engine that make up a split."""
        total, levels = getattr(self, f"{split}_pairs"), LEVELS[split]
        wad, levels_wad = str(_wad(GAME_WAD)), str(_wad(TEST_WAD if split == "test" else GAME_WAD))
        names, part = self.classes(), self.splits().index(split)
        return [
            Session(
                level=levels[run % len(levels)],
                seed=int(np.random.SeedSequence([self.seed, part, run]).generate_state(1)[0] >> 1),
                split=split,
                first=first,
                creatures=tuple(names[i % len(names)] for i in range(first, min(first + _PAIRS_PER_RUN, total))),
                wad=wad,
                levels_wad=levels_wad,
                size=self.size,
                rate_hz=self.rate_hz if "audio" in self.views else 0,
                sound_tics=round(self.sound_s * TICS_PER_S),
                gap_m=(self.near_m, self.far_m),
                crop=self.crop,
            )
            for run, first in enumerate(range(0, total, _PAIRS_PER_RUN))
        ]

    def _play(self, session: Session, folder: Path, environment: dict[str, str]) -> list[Pair]:
        """The encoded pairs of one run of the engine."""
        samples = _run_engine(session, folder, environment)
        return [
            self._pair(session, number, {name: array[number] for name, array in samples.items()})
            for number in range(len(session.creatures))
        ]

    def _pair(self, session: Session, number: int, sample: dict[str, np.ndarray]) -> Pair:
        label = self.classes().index(session.creatures[number])
        creature = len(SCENERY) + (label if self.creature_labels == "kinds" else 0)
        signals: dict[str, Callable[[np.ndarray], Tensor]] = {
            "rgb": _rgb, "depth": _depth_m, "audio": _sound, "labels": partial(_labels, creature=creature)
        }  # fmt: skip
        members = {
            f"{name}.{modality.extensions[0]}": modality.encode(signals[name](sample[name]))
            for name, modality in self.fields().items()
        }
        return Pair(
            key=f"{session.split}_{session.first + number:06d}",
            members=members,
            label=label,
            group=session.level,
            facts=json.loads(str(sample["facts"])) | {"seed": session.seed},
        )


def _rgb(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1) / 255


def _depth_m(picture: np.ndarray) -> Tensor:
    value = torch.from_numpy(picture)[None].float()
    metres = 0.2294 * value + 0.1645  # the calibration at the top of this file
    return torch.where((value == 0) | (value == SKY) | (value == 255), 0.0, metres)


def _sound(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(samples).T / 32768


def _labels(classes: np.ndarray, creature: int) -> Tensor:
    """The class of each pixel, with the class `creature` for the creature."""
    values = torch.from_numpy(classes)[None].float()
    return torch.where(values == len(SCENERY), float(creature), values)


def _wad(name: str) -> Path:
    """The path of a file with levels, art and sounds, which is installed with the engine."""
    spec = importlib.util.find_spec("vizdoom")
    if spec is None or spec.origin is None:
        raise SourceError(f"the source doom needs the package vizdoom, which is not installed: {_INSTALL}")
    return Path(spec.origin).parent / name


def _environment(folder: Path, *, with_sound: bool) -> dict[str, str]:
    """The engine's environment: no sound card, no user settings, and OpenAL where the engine searches for it."""
    quiet = {"HOME": str(folder), "ALSOFT_DRIVERS": "null", "ALSOFT_CONF": os.devnull}
    library = _openal() if with_sound else None
    if library is None:
        return os.environ | quiet
    (folder / "libopenal.so.1").symlink_to(library)
    return os.environ | quiet | {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


def _openal() -> Path | None:
    """The OpenAL of a Python package, so that the bytes do not depend on the system; None: use the system's."""
    for package, pattern in _OPENAL_PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for library in sorted(Path(spec.origin).parent.glob(pattern)):
                return library
    if ctypes.util.find_library("openal") is None:
        raise SourceError(
            f"the source doom needs the library OpenAL for sound: {_INSTALL}, or apt install libopenal1, "
            "or views without audio"
        )
    return None


def _run_engine(session: Session, folder: Path, environment: dict[str, str]) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        request, reply = Path(name, "session.json"), Path(name, "reply.npz")
        request.write_text(json.dumps(asdict(session)), encoding="utf-8")
        command = [sys.executable, str(_GAME), str(request), str(reply)]
        try:
            subprocess.run(
                command, cwd=name, env=environment, check=True, capture_output=True, text=True, timeout=_RUN_LIMIT_S
            )
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip() or "it printed no error").splitlines()[-1]
            raise SourceError(f"the game failed in {session.level}: {reason}") from error
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"the game took more than {_RUN_LIMIT_S} s in {session.level}") from error
        with np.load(reply) as arrays:
            return dict(arrays)
