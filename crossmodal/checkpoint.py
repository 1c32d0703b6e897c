"""Checkpoints: written atomically, found by their step, and loaded without pickle."""

import errno
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Size, Tensor, dtype

NAME = re.compile(r"step_(\d{9})(\.pt)?")  # a file, or a folder that several processes have written
STATE = "state.pt"  # in such a folder: all that is no sharded tensor
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
        raise CheckpointError(_not_written(path, error)) from error
    _drop(folder, keep)
    return path


def save_sharded(
    folder: Path, step: int, state: dict[str, Any], tensors: "dict[str, Tensor]", *, keep: int = 2, group: Any = None
) -> Path:
    """Writes the state of a step from all processes: each its shards of the tensors, and rank 0 all else.

    Every process must call this. It returns once the checkpoint is complete: it is written into a folder of another
    name, which rank 0 renames last.

    Args:
        folder: of the checkpoints, which all processes see.
        step: number of the step.
        state: of rank 0, without tensors that are sharded.
        tensors: sharded (`DTensor`), or equal on all ranks.
        keep: number of checkpoints that are left.
        group: of all processes, to coordinate by; None: the default one.

    Raises:
        CheckpointError: it could not be written; earlier ones are unchanged. Every process raises.
    """
    import torch
    import torch.distributed.checkpoint as dcp

    path, is_main = folder / f"step_{step:09d}", torch.distributed.get_rank() == 0
    aside = folder / f"{path.name}.0.part"
    failed: list[BaseException | None] = [None]
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(aside), process_group=group)
    except (dcp.CheckpointException, OSError, RuntimeError) as error:
        failed = [error]
    if is_main and failed == [None]:
        try:
            torch.save(state, aside / STATE)
            for file in (aside / STATE, aside):
                _sync(file)
            if path.exists():  # saved before, and again by a signal
                shutil.rmtree(path)
            aside.rename(path)
            _sync(folder)
        except (OSError, RuntimeError) as error:
            failed = [error]
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, _told(failed[0]), group=group)
    problems = [problem for problem in every if problem]
    if is_main and problems:
        shutil.rmtree(aside, ignore_errors=True)
    elif is_main:
        _drop(folder, keep)
    if problems:
        raise CheckpointError(_not_written(path, problems[0])) from failed[0]
    return path


def load_sharded(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Reads tensors of a folder into those given, however many processes wrote it and however they are sharded now.

    Raises:
        CheckpointError: the folder is damaged, or holds other tensors.
    """
    import torch.distributed.checkpoint as dcp

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is", UserWarning)  # one process may read alone
            dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), no_dist=True)
    except (Exception, dcp.CheckpointException) as error:  # a damaged file may raise anything; the message names it
        raise CheckpointError(f"{path} cannot be read ({_told(error)}); delete it to continue from the one before, or "
                              "all of them if the program has changed") from error  # fmt: skip


def sizes(path: Path) -> "dict[str, tuple[Size, dtype]]":
    """Shape and kind of every tensor in a folder. Its index is a pickle, as torch writes it: read only your own.

    Raises:
        CheckpointError: the folder is damaged.
    """
    import torch.distributed.checkpoint as dcp

    try:
        stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    except Exception as error:  # as above
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to continue from the one before") from error
    return {
        name: (each.size, each.properties.dtype)
        for name, each in stored.items()
        if isinstance(each, dcp.metadata.TensorStorageMetadata)
    }


def _told(error: BaseException | None) -> str:
    """The first line that says what is wrong; torch's error of several processes begins with a heading."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return "" if error is None else (str(error).splitlines() or [type(error).__name__])[0]


def _not_written(path: Path, error: object) -> str:
    left = latest(path.parent)
    remains = f"{left.name} is intact" if left else "there is no earlier one"
    return f"could not write {path} ({error}); {remains}. Free space, then run the same command again to continue"


def _drop(folder: Path, keep: int) -> None:
    for old in _all(folder)[:-keep]:
        if old.is_dir():
            old.rename(old.with_suffix(".0.part"))  # half a checkpoint is never taken for a whole one
            shutil.rmtree(old.with_suffix(".0.part"))
        else:
            old.unlink()


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
    """The saved state, on the CPU; of a folder, all that is no sharded tensor.

    Raises:
        CheckpointError: the file is damaged.
    """
    import torch

    try:
        return torch.load(path / STATE if path.is_dir() else path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything; the message names the file
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to continue from the one before") from error


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if NAME.fullmatch(path.name))
