"""The processes of one launch, from their meeting to their parting."""

import gc
import os
import sys


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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        meet()
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def part() -> None:
    """Closes the group, if one is open: threads that still serve it when Python ends can abort the process."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        gc.collect()  # models in cycles keep it too
        wait()
        distributed.destroy_process_group()
