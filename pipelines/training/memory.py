"""Peak memory of a stretch of work."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def forget_peak(device: torch.device) -> None:
    """Starts a stretch: memory that was freed before does not count."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PROCESS.is_dir():
        with contextlib.suppress(OSError, AttributeError):  # another C library, or a system without permission
            ctypes.CDLL(None).malloc_trim(0)  # freed memory that the C library keeps is resident too
            (PROCESS / "clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """The peak since `forget_peak`, in MB.

    On a GPU this is the memory of tensors. On a CPU it is the resident memory of this process: with Python and its
    libraries, without the reading processes. On a system that cannot reset it, it is the peak since the process began.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    elif PROCESS.is_dir():
        lines = (PROCESS / "status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(peak / 1e6, 1)
