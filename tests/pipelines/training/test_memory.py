"""Peaks of memory: seen while they last, forgotten afterwards."""

import sys

import pytest
import torch

from pipelines.training.memory import forget_peak, peak_mb

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_is_of_its_own_stretch() -> None:
    forget_peak(CPU)
    before = peak_mb(CPU)
    torch.ones(50_000_000)  # 200 MB, gone at once
    assert 195 < peak_mb(CPU) - before < 260
    forget_peak(CPU)
    assert peak_mb(CPU) < before + 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_peak_of_a_gpu_is_what_its_tensors_held() -> None:
    device = torch.device("cuda")
    forget_peak(device)
    before = peak_mb(device)
    torch.ones(50_000_000, device=device)
    assert peak_mb(device) - before == pytest.approx(200, abs=1)
    forget_peak(device)
    assert peak_mb(device) == pytest.approx(before, abs=1)
