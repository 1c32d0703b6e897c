"""Creatures of a game, seen, ranged and heard at the same moment; the engine is ViZDoom, its levels are Freedoom's.

The parts "train" and "validation" are of different levels of Freedoom Phase 2, the part "test" of levels of Phase 1,
another game with the same creatures. Settings are chosen by the validation part; the test part is for reporting.

ViZDoom (Wydmuch, Kempka and Jaskowski 2018, https://arxiv.org/abs/1809.03470) renders without a display. Depth comes
from its 8-bit buffer: fitted on 1,844 objects of four levels at 0.7 to 29 m, the distance along the view axis is
7.342 value + 5.265 map units, that is ``0.2294 value + 0.1645`` metres, with an error of at most 0.12 m (rms 0.066 m,
which is the quantisation). 127 is the engine's mark for sky, 255 its limit and 0 too near; these have no reading.
"""

import ctypes.util
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossmodal.sources import Pair, Source, SourceError
from crossmodal.sources.common.doom_game import CREATURES, TICS_PER_S, Session
from modalities import Modality
from modalities.audio import Audio
from modalities.common.catalogue import suggest
from modalities.depth import Depth
from modalities.rgb import Rgb

# Every third level is for validation, so that both parts have all of Phase 2's themes. 7, 30, 31 and 32 are special.
VALIDATION_LEVELS = tuple(f"MAP{number:02d}" for number in range(3, 30, 3))
TRAIN_LEVELS = tuple(name for n in range(1, 30) if n != 7 and (name := f"MAP{n:02d}") not in VALIDATION_LEVELS)
TEST_LEVELS = tuple(f"E{episode}M{number}" for number in (2, 4, 6) for episode in (1, 2, 3, 4))  # of Phase 1
LEVELS = {"train": TRAIN_LEVELS, "validation": VALIDATION_LEVELS, "test": TEST_LEVELS}
GAME_WAD, TEST_WAD = "freedoom2.wad", "freedoom1.wad"  # art and sounds are Phase 2's in all parts
VIEWS = ("rgb", "depth", "audio", "mask")
_RATES_HZ = (11025, 22050, 44100)  # the engine's
_PAIRS_PER_RUN = 75  # of the engine, in one level: five of each creature
_RUN_LIMIT_S = 300  # a run takes three seconds
_GAME = Path(__file__).parent / "common" / "doom_game.py"
_OPENAL_PACKAGES = {"cyal": "libopenal.so*", "pyalsoft": "_native/libopenal.so*"}  # and where the library is in them
_INSTALL = "pip install 'crossmodal-transfer[doom]'"


@dataclass(frozen=True)
class Doom(Source):
    """Fifteen creatures in the levels of a free game: colour, depth and stereo sound of the same moment.

    A creature is put somewhere in a level, wakes, walks and calls, and is cropped as a detector might have done. The
    three parts are of different levels: choose settings by "validation" and report "test". Besides the fields, a pair
    has a member "mask.png" (255 where the creature is seen) and the facts "distance_m" (along the view axis),
    "bearing_rad" (right of the view axis is positive), "crop" (left, top, right, bottom in the engine's 320 x 240
    picture) and "seed" (of its run).

    Raises:
        SourceError: an option is out of its range.
    """

    views: tuple[str, ...] = VIEWS  # what is recorded, of rgb, depth, audio and mask
    train_pairs: int = 3000  # pairs of the part "train"; more of them begin with the same
    validation_pairs: int = 900  # pairs of the part "validation"
    test_pairs: int = 900  # pairs of the part "test"
    size: int = 64  # pixels of the stored pictures, square
    rate_hz: int = 11025  # of the stored sound: 11025, 22050 or 44100
    sound_s: float = 1.0  # seconds of sound, ending at the moment of the picture
    near_m: float = 2.0  # least distance from the camera to the creature's edge, when it appears
    far_m: float = 8.0  # greatest such distance
    crop: tuple[float, float] = (1.15, 1.7)  # least and greatest side of the picture over the creature's larger extent
    seed: int = 0  # of everything drawn
    processes: int = 2  # games played at a time; the pairs do not depend on it

    def __post_init__(self) -> None:
        unknown = sorted(set(self.views) - set(VIEWS))
        checks = (
            (not unknown, f"views must be among {', '.join(VIEWS)}, got {', '.join(unknown)}"),
            (bool(set(self.views) - {"mask"}), "views must name at least one of rgb, depth and audio"),
            (self.train_pairs > 0, f"train_pairs must be above 0, got {self.train_pairs}"),
            (self.validation_pairs > 0, f"validation_pairs must be above 0, got {self.validation_pairs}"),
            (self.test_pairs > 0, f"test_pairs must be above 0, got {self.test_pairs}"),
            (8 <= self.size <= 240, f"size must be from 8 to 240 pixels, got {self.size}"),
            (self.rate_hz in _RATES_HZ, f"rate_hz must be one of {_RATES_HZ}, got {self.rate_hz}"),
            (0.1 <= self.sound_s <= 3, f"sound_s must be from 0.1 to 3 seconds, got {self.sound_s}"),
            (
                0.5 <= self.near_m < self.far_m <= 25,
                f"0.5 <= near_m < far_m <= 25 is needed, got {self.near_m} and {self.far_m}",
            ),
            (1 <= self.crop[0] <= self.crop[1] <= 4, f"crop must rise within 1 to 4, got {self.crop}"),
            (0 <= self.seed < 2**32, f"seed must be from 0 to 2**32 - 1, got {self.seed}"),
            (self.processes > 0, f"processes must be above 0, got {self.processes}"),
        )
        for fulfilled, message in checks:
            if not fulfilled:
                raise SourceError(message)

    def fields(self) -> dict[str, Modality]:
        """Colour, depth in millimetre steps, stereo sound: those of `views`."""
        every: dict[str, Modality] = {
            "rgb": Rgb(size=self.size),
            "depth": Depth(size=self.size, scale_m=0.001),
            "audio": Audio(rate_hz=self.rate_hz, channels=2),
        }
        return {name: modality for name, modality in every.items() if name in self.views}

    def classes(self) -> tuple[str, ...]:
        """The creatures."""
        return tuple(CREATURES)

    def splits(self) -> tuple[str, ...]:
        """A part to train on, and two of other levels: one to choose settings by and one to report."""
        return tuple(LEVELS)

    def digest(self) -> str:
        """Names options, engine and levels.

        Raises:
            SourceError: the engine is not installed.
        """
        sizes = [_wad(name).stat().st_size for name in (GAME_WAD, TEST_WAD)]
        options = {name: value for name, value in asdict(self).items() if name != "processes"}
        told = json.dumps([options, version("vizdoom"), sizes, LEVELS], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def dropped(self) -> list[str]:
        """None: every pair is whole."""
        return []

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pairs of a part, classes in turn, level after level.

        Raises:
            SourceError: the part is unknown; the engine or its sound library is not installed, or failed.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        sessions = self._sessions(split)
        with (
            tempfile.TemporaryDirectory(prefix="crossmodal-doom-") as folder,
            ThreadPoolExecutor(self.processes) as pool,
        ):
            environment = _environment(Path(folder), with_sound="audio" in self.views)
            runs = pool.map(lambda session: self._play(session, Path(folder), environment), sessions)
            try:
                for played in runs:
                    yield from played
            finally:  # when the caller has had enough
                pool.shutdown(wait=False, cancel_futures=True)

    def _sessions(self, split: str) -> list[Session]:
        """The runs of the engine that make up a part; none depends on another."""
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
        """One run of the engine, encoded."""
        samples = _run_engine(session, folder, environment)
        return [
            self._pair(session, number, {name: array[number] for name, array in samples.items()})
            for number in range(len(session.creatures))
        ]

    def _pair(self, session: Session, number: int, sample: dict[str, np.ndarray]) -> Pair:
        signals = {"rgb": _rgb, "depth": _depth_m, "audio": _sound}
        members = {
            f"{name}.{modality.extensions[0]}": modality.encode(signals[name](sample[name]))
            for name, modality in self.fields().items()
        }
        if "mask" in self.views:
            members["mask.png"] = _encode_mask(sample["mask"])
        return Pair(
            key=f"{session.split}_{session.first + number:06d}",
            members=members,
            label=self.classes().index(session.creatures[number]),
            group=session.level,
            facts=json.loads(str(sample["facts"])) | {"seed": session.seed},
        )


def _rgb(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1) / 255


def _depth_m(picture: np.ndarray) -> Tensor:
    value = torch.from_numpy(picture)[None].float()
    metres = 0.2294 * value + 0.1645  # the calibration at the top of this file
    return torch.where((value == 0) | (value == 127) | (value == 255), 0.0, metres)


def _sound(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(samples).T / 32768


def _encode_mask(mask: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(mask).save(file, "PNG")
        return file.getvalue()


def _wad(name: str) -> Path:
    """A file of levels, art and sounds, which comes with the engine."""
    spec = importlib.util.find_spec("vizdoom")
    if spec is None or spec.origin is None:
        raise SourceError(f"the source doom needs the package vizdoom, which is not installed: {_INSTALL}")
    return Path(spec.origin).parent / name


def _environment(folder: Path, *, with_sound: bool) -> dict[str, str]:
    """Of the engine's process: no sound card, no settings of the user, and OpenAL where the engine looks for it."""
    quiet = {"HOME": str(folder), "ALSOFT_DRIVERS": "null", "ALSOFT_CONF": os.devnull}
    library = _openal() if with_sound else None
    if library is None:
        return os.environ | quiet
    (folder / "libopenal.so.1").symlink_to(library)
    return os.environ | quiet | {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


def _openal() -> Path | None:
    """The sound library inside a Python package, so that bytes do not depend on the system's; None: the system's."""
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
            said = (error.stderr.strip() or "nothing was said").splitlines()[-1]
            raise SourceError(f"the game failed in {session.level}: {said}") from error
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"the game took more than {_RUN_LIMIT_S} s in {session.level}") from error
        with np.load(reply) as arrays:
            return dict(arrays)
