"""The processes of one launch: they meet, agree on what they run, wait for each other, and part."""

import gc
import os
import re
import sys
from collections.abc import Callable
from typing import TypeVar

from pipelines.config.errors import ConfigError, RunError, SharedError

Made = TypeVar("Made")
MISTAKES = (ValueError, LookupError, OSError, ImportError, RunError)  # that one rank tells the others

LOST = re.compile(  # what gloo and NCCL say on one process when another is gone
    r"closed by peer|reset by peer|connection (was )?(closed|reset|refused)|remote process exited|broken pipe"
    r"|socket closed|communicator was aborted",
    re.IGNORECASE,
)


def count() -> int:
    """The number of processes that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process speaks for the run."""
    return int(os.environ.get("RANK", "0")) == 0


def meet() -> None:
    """Opens the group of processes, where a launcher started several."""
    from datetime import timedelta

    import torch
    import torch.distributed.nn  # first: its functions keep for good the group that is open when they are defined
    from accelerate import PartialState

    cpu = not torch.accelerator.is_available()  # without it, several processes on a CPU are taken for one
    PartialState(cpu=cpu, timeout=timedelta(hours=12))  # others wait while one evaluates


def wait() -> None:
    """Returns once every process has come here."""
    if count() > 1:
        meet()
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def gather(value: Made) -> list[Made]:
    """The value of every rank, in their order."""
    if count() == 1:
        return [value]
    meet()
    from accelerate.utils import gather_object

    return gather_object([value])


def together(make: Callable[[], Made]) -> Made:
    """What `make` returns on this rank, if it succeeds on every rank.

    Raises:
        SharedError: it failed on some ranks; every rank raises it, so that none waits for the others.
    """
    if count() == 1:
        return make()
    try:
        made, failed = make(), None
    except MISTAKES as error:
        made, failed = None, error
    everyones = gather(_problems(failed))
    if not any(everyones):
        return made  # type: ignore[return-value]
    if failed and not isinstance(failed, ConfigError) and all(found == everyones[0] for found in everyones):
        raise failed
    raise SharedError(_by_rank(everyones)) from failed


def from_main(make: Callable[[], Made]) -> Made:
    """What `make` returns on rank 0, which alone calls it: the others may see an older state of the file system.

    Raises:
        SharedError: it failed; every rank raises it.
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


def is_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another process of the launch has ended."""
    return count() > 1 and isinstance(error, RuntimeError) and LOST.search(str(error)) is not None


def name_ranks(numbers: list[int]) -> str:
    """The words "rank 1" or "ranks 1, 3"."""
    return f"rank{'s' if numbers[1:] else ''} {', '.join(map(str, numbers))}"


def part() -> None:
    """Closes the group, if one is open: threads that still serve it when Python ends can abort the process."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        gc.collect()  # models in cycles keep it too
        wait()
        distributed.destroy_process_group()


def _problems(error: BaseException | None) -> list[str]:
    if error is None:
        return []
    return list(error.problems) if isinstance(error, ConfigError) else [f"{error}" or type(error).__name__]


def _by_rank(everyones: list[list[str]]) -> list[str]:
    """Every problem once; with its ranks, unless all have it."""
    found = []
    for problem in dict.fromkeys(problem for problems in everyones for problem in problems):
        ranks = [rank for rank, problems in enumerate(everyones) if problem in problems]
        found.append(problem if len(ranks) == len(everyones) else f"{name_ranks(ranks)}: {problem}")
    return found
