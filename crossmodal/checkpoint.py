"""Checkpoints: written atomically, found by their step, and loaded without pickle."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = re.compile(r"step_(\d{9})\.pt")
REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "make the disk writable",
    errno.EACCES: "make the folder writable",
}


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the checkpoint that is left."""


class WriteError(OSError):
    """A file could not be written; the message names the file, the cause and the remedy."""


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Adds the file's name and a remedy to an error of the operating system.

    Raises:
        WriteError: an OSError was raised inside.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = error.strerror or error
        remedy = f"{REMEDIES.get(error.errno or 0, 'correct this')}, then run the same command again"
        raise WriteError(f"could not write {path}: {reason}; {remedy}") from error


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes the state of a step and deletes all but the newest `keep` checkpoints.

    Raises:
        CheckpointError: it could not be written, for example because the disk is full; earlier ones are unchanged.
    """
    import torch  # writing a file needs no torch

    path = folder / f"step_{step:09d}.pt"
    aside = path.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns a short write into a RuntimeError
        aside.unlink(missing_ok=True)
        left = latest(folder)
        remains = f"{left.name} is intact" if left else "there is no earlier one"
        raise CheckpointError(
            f"could not write {path} ({error}); {remains}. Free space, then run the same command again to continue"
        ) from error
    for old in _all(folder)[:-keep]:
        old.unlink()
    return path


def write(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: a reader gets either the complete old content or the complete new one.

    A link is replaced; its target does not change.

    Raises:
        WriteError: the file cannot be written, for example because the disk is full.
        IsADirectoryError: `path` is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file to write, but is a folder; move the folder away")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder; None if there is none."""
    return next(reversed(_all(folder)), None)


def load(path: Path) -> dict[str, Any]:
    """The saved state, on the CPU.

    Raises:
        CheckpointError: the file is damaged.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything; the message names the file
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to continue from the one before") from error


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*.pt") if NAME.fullmatch(path.name))
