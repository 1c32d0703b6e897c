"""The processes of one launch: opens and closes their group, and shares values and errors."""

import gc
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pipelines.config.errors import ConfigError, RunError, SharedError
from pipelines.runs.lifeline import Lifeline

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made")
PATIENCE = timedelta(hours=12)  # for which a process waits for others that live: one may evaluate alone
NEWS_SECONDS = 5.0  # from a broken connection to the news who ended
MISTAKES = (ValueError, LookupError, OSError, ImportError, RunError)  # errors that one rank reports to the others
PIECE = 1 << 26  # numbers of a message

LOST = re.compile(  # messages of gloo and NCCL on one process when another has ended
    r"closed by peer|reset by peer|connection (was )?(closed|reset|refused)|remote process exited|broken pipe"
    r"|socket closed|communicator was aborted",
    re.IGNORECASE,
)

_LIFELINES: list[Lifeline] = []  # of every group that this process opened; the last may be open


def count() -> int:
    """The number of processes that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """True on rank 0, which prints and writes for the run."""
    return rank() == 0


def meet() -> None:
    """Opens the group of processes, if it is not open.

    Raises:
        RunError: some processes did not start, or cannot be reached.
    """
    import torch
    import torch.distributed.nn  # first: its functions bind the group that is open at import, for good
    from accelerate import PartialState

    group: dict[str, Any] = {}
    if count() > 1 and not torch.distributed.is_initialized():
        _LIFELINES.append(Lifeline(rank(), count(), turn=len(_LIFELINES)))
        group = {"store": _LIFELINES[-1].store, "rank": rank(), "world_size": count()}
    cpu = not torch.accelerator.is_available()  # without it, accelerate takes several CPU processes for one
    PartialState(cpu=cpu, timeout=PATIENCE, **group)


def wait() -> None:
    """Waits until every process has called this."""
    if count() > 1:
        meet()
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def gather(value: Made) -> list[Made]:
    """The value of every rank, in rank order."""
    if count() == 1:
        return [value]
    meet()
    from accelerate.utils import gather_object

    return gather_object([value])


def together(make: Callable[[], Made]) -> Made:
    """The result of `make` on this rank, if it succeeds on every rank.

    Raises:
        SharedError: it failed on some rank; every rank raises, so that none waits for the others.
    """
    if count() == 1:
        return make()
    try:
        made, failed = make(), None
    except MISTAKES as error:
        made, failed = None, error
    by_rank = gather(_problems(failed))
    if not any(by_rank):
        return made  # type: ignore[return-value]
    if failed and not isinstance(failed, ConfigError) and all(problems == by_rank[0] for problems in by_rank):
        raise failed
    raise SharedError(_by_rank(by_rank)) from failed


def from_main(make: Callable[[], Made]) -> Made:
    """The result of `make` on rank 0, the only one to call it: others may see an older state of the file system.

    Raises:
        SharedError: it failed; every rank raises.
    """
    if count() == 1:
        return make()
    made, failed = None, None
    try:
        made = make() if is_main() else None
    except MISTAKES as error:
        failed = error
    made, problems = gather((made, _problems(failed)))[0]
    if problems:
        raise SharedError(problems) from failed
    return made  # type: ignore[return-value]


def spread(total: int, measure: Callable[[range], list[Made]]) -> list[Made]:
    """What `measure` gives of the numbers from 0 to `total`, in order, on every rank.

    Of n ranks, rank r measures every n-th number from r on. Results depend neither on one another nor on the rank, and
    `measure` does not communicate.

    Raises:
        SharedError: it failed on some rank; every rank raises.
    """
    found: list[Made | None] = [None] * total
    own = together(lambda: measure(range(rank(), total, count())))
    for number, results in enumerate(gather(own)):
        found[number :: count()] = results
    return found  # type: ignore[return-value]


def deal(jobs: Sequence[Callable[[], Made]]) -> list[Made]:
    """The results of all jobs, in order, on every rank; see `spread`."""
    return spread(len(jobs), lambda own: [jobs[number]() for number in own])


def share(pairs: int, batch: int) -> range:
    """The consecutive pairs of this rank, in whole batches: so every number of ranks makes the same batches."""
    batches = -(-pairs // batch)
    first, last = (batch * (batches * number // count()) for number in (rank(), rank() + 1))
    return range(min(first, pairs), min(last, pairs))


def join_rows(own: "Tensor") -> "Tensor":
    """The rows of all ranks in rank order, on the CPU of every rank; ranks may have different numbers of rows.

    Args:
        own: rows of this rank, on the CPU; a rank without rows may give any other sizes than the rest.
    """
    if count() == 1:
        return own
    import torch
    from torch import distributed

    sizes = gather((len(own), own.shape[1:]))
    rest = next((rest for rows, rest in sizes if rows), own.shape[1:])
    whole = own.new_empty(sum(rows for rows, _ in sizes), *rest)
    group: Any = None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
    size, start = max(1, PIECE // max(1, rest.numel())), 0
    for number, (rows, _) in enumerate(sizes):
        stop = start + rows
        if number == rank() and rows:
            whole[start:stop] = own
        for piece in torch.split(whole[start:stop], size):
            if len(piece):
                distributed.broadcast(piece, src=number, group=group)
        start = stop
    if group is not None:
        distributed.destroy_process_group(group)
    return whole


def copy_from_main(tensors: "Iterable[Tensor]") -> None:
    """Overwrites tensors with those of rank 0; every rank gives as many, of the same sizes, on its device."""
    if count() > 1:
        from torch import distributed

        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def is_lost(error: BaseException) -> bool:
    """True if an error only reports that another process of the launch has ended."""
    lost = LOST.search(str(error)) is not None or any(line.has_told() for line in _LIFELINES)
    return count() > 1 and isinstance(error, RuntimeError) and lost


def has_told() -> bool:
    """True if this process has printed, or prints within some seconds, which other process ended and why."""
    return any(line.has_told(NEWS_SECONDS) for line in _LIFELINES[-1:])


def tell(why: str) -> None:
    """Tells the other processes of the launch that this one ends, and why."""
    for line in _LIFELINES[-1:]:
        line.tell(why)


def is_open() -> bool:
    """True if this process is connected to others of its launch."""
    return any(line.is_open for line in _LIFELINES[-1:])


def leave(code: int) -> NoReturn:
    """Ends this process of several at once: Python's own end could wait for a process that is gone."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def name_ranks(numbers: list[int]) -> str:
    """For example "rank 1" or "ranks 1, 3"."""
    return f"rank{'s' if numbers[1:] else ''} {', '.join(map(str, numbers))}"


def part() -> None:
    """Closes the group, if one is open: its threads can abort the process if they still run when Python ends."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        gc.collect()  # models in reference cycles hold the group too
        wait()
        for line in _LIFELINES[-1:]:
            line.close()
        distributed.destroy_process_group()
        from accelerate import PartialState

        PartialState._reset_state()  # a further run in this process opens a group again


def _problems(error: BaseException | None) -> list[str]:
    if error is None:
        return []
    return list(error.problems) if isinstance(error, ConfigError) else [f"{error}" or type(error).__name__]


def _by_rank(by_rank: list[list[str]]) -> list[str]:
    """Every problem once, with its ranks unless all have it."""
    lines = []
    for problem in dict.fromkeys(problem for problems in by_rank for problem in problems):
        ranks = [rank for rank, problems in enumerate(by_rank) if problem in problems]
        lines.append(problem if len(ranks) == len(by_rank) else f"{name_ranks(ranks)}: {problem}")
    return lines
