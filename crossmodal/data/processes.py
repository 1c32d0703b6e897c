"""Packing by several processes of one machine."""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from crossmodal.data.joining import Packing
from crossmodal.data.manifest import ShardError
from crossmodal.data.writer import Numbered, write_part


def write_by(
    workers: int,
    numbered: Numbered,
    packing: Packing,
    *,
    part: int = 0,
    parts: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Packs a part by several processes, each of which takes some of its shards; the bytes are those of one process.

    The processes are forks, so they share the list of files that the source has read. See `write_part`.

    Raises:
        ShardError: see `write_part`, or a process ended before its work was done.
        SourceError: a pair cannot be read.
    """
    if workers == 1:
        write_part(numbered, packing, part=part, parts=parts, progress=progress)
        return
    context = multiprocessing.get_context("fork")
    ends: dict[Connection, BaseProcess] = {}
    pairs = 0
    try:
        for worker in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            given = ([*ends, ours], theirs, numbered, packing, (part + parts * worker, parts * workers))
            process: BaseProcess = context.Process(target=_work, args=given, daemon=True)
            process.start()
            theirs.close()
            ends[ours] = process
        for message in _messages(ends):
            if message is None:
                progress()
            elif isinstance(message, int):
                pairs = message
            else:
                raise message
    finally:
        for child in ends.values():
            child.terminate()
            child.join()
    packing.end_part(part, parts, pairs)


def _messages(ends: dict[Connection, BaseProcess]) -> Iterator[BaseException | int | None]:
    """The messages of the processes, until all are done."""
    left = dict(ends)
    while left:
        for end in wait([*left]):
            assert isinstance(end, Connection)
            try:
                message = end.recv()
            except EOFError:
                process = left.pop(end)
                process.join()
                message = ShardError(
                    f"process {process.pid}, which packed shards, ended with exit code {process.exitcode}; if that is "
                    f"-{signal.SIGKILL}, memory ran out, so use fewer workers; then run the same command again"
                )
            if isinstance(message, int):
                del left[end]
            yield message


def _work(
    others: list[Connection], end: Connection, numbered: Numbered, packing: Packing, share: tuple[int, int]
) -> None:
    for other in others:  # the first process alone reads, so that sending to it fails once it is gone
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        part, parts = share
        pairs = write_part(numbered, packing, part=part, parts=parts, progress=lambda: end.send(None), marks=False)
        end.send(pairs)
    except BrokenPipeError:  # the first process is gone
        os._exit(1)
    except BaseException as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError("".join(traceback.format_exception(error)))
        end.send(error)
