"""Finds the recordings in a file or folder."""

from collections.abc import Callable
from pathlib import Path

from crossmodal.sources import SourceError
from crossmodal.sources.common.patterns import natural, some_files
from crossmodal.sources.recordings.bags import is_bag, open_bags
from crossmodal.sources.recordings.lerobot import is_lerobot, open_lerobot
from crossmodal.sources.recordings.lists import is_lists, open_lists
from crossmodal.sources.recordings.stream import Recording
from crossmodal.sources.recordings.videos import is_video, open_videos

FORMATS: tuple[tuple[Callable[[Path], bool], Callable[[Path], list[Recording]]], ...] = (
    (is_lists, open_lists),
    (is_bag, open_bags),
    (is_lerobot, open_lerobot),
    (is_video, open_videos),
)
KNOWN = (
    "a bag (.bag, .mcap, .db3 or the folder of a ROS 2 bag), a video, a LeRobot data set, or a folder of lists such as "
    "rgb.txt and depth.txt"
)


def open_recordings(path: Path) -> list[Recording]:
    """The recordings in a file or folder, or in the files and folders directly in a folder, in natural order.

    Raises:
        SourceError: there is no such path, or no recording in it; or a recording cannot be read.
    """
    if not path.exists():
        raise SourceError(f"there is no file or folder {path.absolute()}")
    if not (recordings := find_recordings(path)):
        held = f": {some_files(path)}" if path.is_dir() else ""
        raise SourceError(f"{path} is no recording and holds none{held}; a recording is {KNOWN}")
    return recordings


def find_recordings(path: Path) -> list[Recording]:
    """The recordings in an existing file or folder; empty if there is none.

    Raises:
        SourceError: a recording cannot be read.
    """
    if opened := _open(path):
        return opened
    inside = sorted(path.iterdir(), key=lambda file: natural(file.name)) if path.is_dir() else []
    return [recording for file in inside if not file.name.startswith(".") for recording in _open(file)]


def _open(path: Path) -> list[Recording]:
    return next((open_them(path) for is_one, open_them in FORMATS if is_one(path)), [])
