"""The most memory that a stretch of work holds at once."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def forget_peak(device: torch.device) -> None:
    """Begins a stretch: what was held before and is no longer does not count."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PROCESS.is_dir():
        with contextlib.suppress(OSError, AttributeError):  # another C library, or a system that does not allow it
            ctypes.CDLL(None).malloc_trim(0)  # freed memory that the C library keeps is resident too
            (PROCESS / "clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """The most since `forget_peak`, in MB.

    On a GPU, what tensors held; on a CPU, all of this process that is resident, with Python and its libraries and
    without the processes that read. Where a system cannot forget, the most since the process began.
    """
    if device.type == "cuda":
        held = torch.cuda.max_memory_allocated(device)
    elif PROCESS.is_dir():
        lines = (PROCESS / "status").read_text().splitlines()
        held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(held / 1e6, 1)
