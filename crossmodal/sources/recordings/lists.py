"""Lists of stamped files, as in the TUM RGB-D benchmark (Sturm et al. 2012) and its kin: Bonn, ETH3D, OpenLORIS.

A folder holds a text file for each sensor, such as rgb.txt and depth.txt, with a line for each frame: its stamp in
seconds and the path of its file. Lines that begin with # are comments. A file of poses, such as groundtruth.txt, has
eight numbers a line: stamp, tx ty tz in metres, and the quaternion qx qy qz qw of camera to world. The stamps of two
sensors differ, and so do their numbers of frames. The scale of depth differs too: 5000 for a metre in TUM, 1000 in
others, so it is not stated.
"""

import heapq
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image
from scipy.spatial.transform import Rotation

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.stream import Frame, Kind, Recording, Stream, safe_name

POSE = 8  # numbers in a line of a file of poses
THERMAL = ("thermal", "infrared", "lwir")  # words in the names of lists of temperatures


def is_lists(path: Path) -> bool:
    """True for a folder that holds a list of stamped files."""
    return path.is_dir() and any(_is_list(file, path) for file in path.glob("*.txt"))


def open_lists(path: Path) -> list[Recording]:
    """The recording of a folder of lists.

    Raises:
        SourceError: a line of a list is no stamp and path.
    """
    return [_Lists(path)]


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that is no comment."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if (words := line.replace(",", " ").split()) and not words[0].startswith("#"):
                yield number, words


def _is_list(file: Path, root: Path) -> bool:
    _, words = next(_rows(file), (0, []))
    return len(words) >= 2 and _is_stamp(words[0]) and (root / words[1]).is_file()


def _is_stamp(word: str) -> bool:
    try:
        return Decimal(word).is_finite()
    except InvalidOperation:
        return False


class _Lists(Recording):
    def __init__(self, path: Path) -> None:
        self.path, self.name = path, safe_name(path.absolute().name)
        self._stamps: dict[str, Int64[np.ndarray, " rows"]] = {}
        self._paths: dict[str, list[str]] = {}  # of lists of files
        self._poses: dict[str, Float64[np.ndarray, "rows 4 4"]] = {}
        for file in sorted(path.glob("*.txt")):
            if _is_list(file, path):
                self._stamps[file.name], rows = self._read(file, 2)
                self._paths[file.name] = [row[0] for row in rows]
            elif len(next(_rows(file), (0, []))[1]) == POSE and "imu" not in file.stem:
                self._stamps[file.name], rows = self._read(file, POSE)
                self._poses[file.name] = _matrices(file, rows)

    @property
    def files(self) -> tuple[Path, ...]:
        """The lists and every file in them."""
        pictures = [self.path / row for rows in self._paths.values() for row in rows]
        return (*(self.path / name for name in self._stamps), *pictures)

    def streams(self) -> dict[str, Stream]:
        """A stream for each list of files and each file of poses."""
        streams = {}
        for name, stamps in self._stamps.items():
            if name in self._poses:
                streams[name] = Stream(name, "pose", "tx ty tz qx qy qz qw", len(stamps))
                continue
            file = self.path / self._paths[name][0]
            try:
                with Image.open(file) as image:
                    mode, (width, height), kind = image.mode, image.size, image.format
            except OSError as error:
                raise SourceError(f"{self.path / name}: its first file, {file}, cannot be read as a picture") from error
            streams[name] = Stream(name, _kind(mode, name), f"{kind} {mode}".lower(), len(stamps), height, width)
        return streams

    def stamps(self, stream: str) -> Int64[np.ndarray, " frames"]:
        """Stamps of the list, nanoseconds."""
        return self._stamps[stream]

    def frames(self, wanted: Mapping[str, Int64[np.ndarray, " some"]]) -> Iterator[Frame]:
        """Files unchanged, and poses as matrices, in the order of their stamps."""
        queues = [
            [(int(self._stamps[name][number]), order, int(number), name) for number in numbers]
            for order, (name, numbers) in enumerate(wanted.items())
        ]
        for _, _, number, name in heapq.merge(*queues):
            if name in self._poses:
                yield Frame(name, number, self._poses[name][number])
                continue
            file = self.path / self._paths[name][number]
            try:
                yield Frame(name, number, file.read_bytes())
            except OSError as error:
                raise SourceError(f"{file}, listed in {self.path / name}, cannot be read: {error.strerror}") from error

    @staticmethod
    def _read(file: Path, words: int) -> tuple[Int64[np.ndarray, " rows"], list[list[str]]]:
        stamps, rows = [], []
        for number, row in _rows(file):
            if len(row) < words or not _is_stamp(row[0]):
                raise SourceError(f"{file}: line {number} must hold a stamp in seconds and {words - 1} more, got "
                                  f"{' '.join(row)!r}")  # fmt: skip
            stamps.append(int((Decimal(row[0]) * 10**9).to_integral_value()))
            rows.append(row[1:words])
        return np.asarray(stamps, dtype=np.int64), rows


def _matrices(file: Path, rows: list[list[str]]) -> Float64[np.ndarray, "rows 4 4"]:
    try:
        numbers = np.asarray(rows, dtype=np.float64)
        turns = Rotation.from_quat(numbers[:, 3:]).as_matrix()
    except ValueError as error:
        raise SourceError(f"{file} must hold numbers, stamp tx ty tz qx qy qz qw: {error}") from error
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    poses[:, :3, 3], poses[:, :3, :3] = numbers[:, :3], turns
    return poses


def _kind(mode: str, name: str) -> Kind:
    if mode in ("RGB", "RGBA", "P"):
        return "rgb"
    if mode in ("L", "1"):
        return "grey"
    return "thermal" if any(word in name.lower() for word in THERMAL) else "depth"
