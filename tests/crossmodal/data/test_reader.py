"""The planned order: the same for any number of ranks and workers, resumed anywhere, each pair at most once."""

import errno
import math
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from crossmodal.data import loader, reader
from crossmodal.data.loader import LoaderError
from crossmodal.data.manifest import Field, ShardError
from crossmodal.data.order import Plan
from crossmodal.data.reader import (
    PairStream,
    SampleBatch,
    join,
    open_view,
    read_pair,
    sweep_parts,
    to_batch,
    train_parts,
)
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from modalities import MODALITIES
from modalities.common.random import generator


@pytest.fixture
def shards(synthetic: Path) -> Shards:
    return Shards.open(synthetic / "train")


@pytest.fixture
def views(shards: Shards) -> dict[str, View]:
    return {"rgb": open_view(shards, "rgb", size=16), "depth": open_view(shards, "depth", size=16)}


def plan_of(shards: Shards, batch_size: int = 16, **options: int) -> Plan:
    return Plan(len(shards), batch_size, shard_starts=tuple(shards.starts[:-1].tolist()), **options)


def parts(shards: Shards, views: dict[str, View], *, workers: int = 0, **options: int) -> list[SampleBatch]:
    stream = PairStream(shards, views, plan_of(shards), crop=Crop(), **{"last_step": 9, **options})
    return list(train_parts(stream, workers=workers))


def assert_same(ours: SampleBatch, theirs: SampleBatch) -> None:
    assert torch.equal(ours.index, theirs.index)
    assert torch.equal(ours.label, theirs.label)
    for name in ours.adapted:
        assert torch.equal(ours.adapted[name], theirs.adapted[name])
        assert torch.equal(ours.draws[name], theirs.draws[name])


def test_pictures_of_8_bits_travel_in_bytes_and_arrive_with_the_same_numbers(shards: Shards) -> None:
    views = {"rgb": open_view(shards, "rgb", size=16, bits=8), "depth": open_view(shards, "depth", size=16)}
    part = parts(shards, views)[1]
    wide = join([read_pair(shards, views, int(index), crop=Crop()) for index in part.index])
    assert part.adapted["rgb"].dtype == torch.uint8 and part.adapted["depth"].dtype == torch.float32
    assert 4 * part.adapted["rgb"].nbytes == wide.adapted["rgb"].nbytes
    ours, theirs = to_batch(part, views, "cpu"), to_batch(wide, views, "cpu")
    assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in views)
    finer = open_view(shards, "rgb", size=16).modality
    exact = finer.normalise(read_pair(shards, {"rgb": View(finer)}, 0).adapted["rgb"])
    rounded = views["rgb"].modality.normalise(read_pair(shards, views, 0).adapted["rgb"])
    assert 0 < (exact - rounded).abs().max() <= 0.5 / 255 / min(finer.std) + 1e-6


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_batches(shards: Shards, views: dict[str, View], workers: int) -> None:
    for ours, theirs in zip(parts(shards, views), parts(shards, views, workers=workers), strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_joint_batch(shards: Shards, views: dict[str, View], ranks: int) -> None:
    each = [parts(shards, views, rank=rank, ranks=ranks) for rank in range(ranks)]
    for joint, *pieces in zip(parts(shards, views), *each, strict=True):
        assert_same(joint, join(pieces))


def test_a_run_begun_in_the_middle_sees_what_it_would_have_seen(shards: Shards, views: dict[str, View]) -> None:
    for ours, theirs in zip(parts(shards, views)[5:], parts(shards, views, first_step=5), strict=True):
        assert_same(ours, theirs)


def test_an_epoch_takes_no_pair_twice_and_misses_less_than_a_batch_a_lane(shards: Shards) -> None:
    for batch_size in (1, 7, 16, 50, 96):
        plan = plan_of(shards, batch_size)
        taken = plan.epoch(0).ravel()
        assert len(set(taken.tolist())) == len(taken) == plan.steps * batch_size
        assert plan.steps >= 1
        assert len(shards) - len(taken) < batch_size + plan.width


def test_left_over_pairs_change_between_epochs() -> None:
    plan = Plan(103, 10)
    left = [set(range(103)) - set(plan.epoch(epoch).ravel().tolist()) for epoch in range(12)]
    assert len(set.union(*left)) > len(left[0])
    assert not set.intersection(*left)


def test_epochs_and_seeds_have_orders_of_their_own(shards: Shards) -> None:
    plan = plan_of(shards)
    assert plan.epoch(0).tolist() != plan.epoch(1).tolist()
    assert plan.epoch(0).tolist() != replace(plan, seed=1).epoch(0).tolist()
    assert plan.epoch(3).tolist() == plan_of(shards).epoch(3).tolist()


def test_every_pair_comes_equally_often_at_every_place() -> None:
    """Over many epochs a pair's step is uniform: the mean step of each pair is that of all."""
    plan = Plan(64, 8)
    steps = torch.zeros(64)
    epochs = 400
    for epoch in range(epochs):
        order = torch.from_numpy(plan.epoch(epoch))
        steps[order.reshape(-1)] += torch.arange(plan.steps).repeat_interleave(8).float()
    mean, spread = (plan.steps - 1) / 2, ((plan.steps**2 - 1) / 12 / epochs) ** 0.5
    assert ((steps / epochs - mean).abs() < 4.5 * spread).all()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be from 1 to the number of pairs, 10, got 11"):
        Plan(10, 11)


def test_ranks_that_cannot_share_the_lanes_are_refused(shards: Shards, views: dict[str, View]) -> None:
    with pytest.raises(ValueError, match="16 lanes, which 3 processes cannot share evenly; use a batch_size that 3"):
        parts(shards, views, rank=0, ranks=3)


@pytest.mark.parametrize("lanes", [2, 6, 10, 30])
def test_lanes_that_ranks_can_share_are_named(shards: Shards, views: dict[str, View], lanes: int) -> None:
    crop = Crop()
    with pytest.raises(ValueError, match=r"gives 15 lanes, .* evenly; set lanes: 2 or 6 or 10 or 30$"):
        PairStream(shards, views, Plan(len(shards), 30), crop=crop, last_step=1, ranks=2)
    assert PairStream(shards, views, Plan(len(shards), 30, lanes=lanes), crop=crop, last_step=1, ranks=2).lanes


def test_aligned_views_share_their_window(shards: Shards) -> None:
    """Luminance of the adapted colour picture is the adapted luminance: both saw the same rectangle."""
    views = {"rgb": open_view(shards, "rgb", size=16), "grey": open_view(shards, "luminance", size=16)}
    part = read_pair(shards, views, 3, crop=Crop(scale=(0.3, 0.5)), address=(0, 4))
    from kornia.color import rgb_to_lab

    torch.testing.assert_close(rgb_to_lab(part.adapted["rgb"])[:, :1], part.adapted["grey"])


def test_views_that_are_not_aligned_draw_their_own_window(shards: Shards) -> None:
    views = {name: open_view(shards, "rgb", size=16, aligned=name == "one") for name in ("one", "other", "third")}
    part = read_pair(shards, views, 3, crop=Crop(scale=(0.3, 0.5)), address=(0, 4))
    assert not torch.equal(part.adapted["one"], part.adapted["other"])
    assert not torch.equal(part.adapted["third"], part.adapted["other"])


def test_a_sample_looks_different_every_epoch_and_alike_within(shards: Shards, views: dict[str, View]) -> None:
    crop = Crop()
    now, again, later = (read_pair(shards, views, 7, crop=crop, address=(0, epoch)) for epoch in (1, 1, 2))
    assert_same(now, again)
    assert not torch.equal(now.adapted["depth"], later.adapted["depth"])


def test_a_pair_has_so_many_windows_in_turn_and_no_more(shards: Shards) -> None:
    views = {"rgb": open_view(shards, "rgb", size=16), "depth": open_view(shards, "depth", size=16, aligned=False)}
    views |= {f"{name}_again": replace(view, repeats=True) for name, view in views.items()}
    few, new = Crop(windows=3), Crop()
    seen = [read_pair(shards, views, 7, crop=few, address=(0, epoch)) for epoch in range(7)]
    first = [read_pair(shards, views, 7, crop=new, address=(0, epoch)) for epoch in range(7)]
    for epoch in range(3):
        assert_same(seen[epoch], first[epoch])  # so a run of few epochs is the same with and without a number
    for part, turn, plain in zip(seen[3:], [0, 1, 2, 0], first[3:], strict=True):
        assert torch.equal(part.adapted["rgb"], seen[turn].adapted["rgb"])
        assert torch.equal(part.draws["rgb"], plain.draws["rgb"])  # its augmentation is new
        assert torch.equal(part.adapted["depth"], plain.adapted["depth"])  # and so is a window of its own
        for name in ("rgb_again", "depth_again"):
            assert torch.equal(part.adapted[name], seen[turn].adapted[name])
            assert torch.equal(part.draws[name], seen[turn].draws[name])
    assert not torch.equal(seen[0].adapted["rgb"], seen[1].adapted["rgb"])


def test_windows_lie_inside_the_sample() -> None:
    crop = Crop(scale=(0.05, 1.0), ratio=(0.3, 3.0))
    flips = 0
    for number in range(500):
        window = crop.draw(generator("window", number))
        assert 0 <= window.top <= window.top + window.height <= 1 + 1e-9
        assert 0 <= window.left <= window.left + window.width <= 1 + 1e-9
        flips += window.flip
    assert 200 < flips < 300  # half of 500, 4.5 standard deviations


@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (0.75, 1.333)), ((0.2, 1.0), (0.75, 1.333)),
                                              ((0.6, 1.0), (0.8, 1.25)), ((1.0, 1.0), (1.5, 2.0))])  # fmt: skip
def test_windows_have_the_areas_and_ratios_of_torchvision_s(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    crop, count, side = Crop(scale=scale, ratio=ratio), 4000, 1000
    windows = [crop.draw(generator("crop", number)) for number in range(count)]
    ours = torch.tensor([[w.height * w.width, w.width / w.height, w.top + w.height / 2] for w in windows])
    picture = torch.zeros(1, 1, 1).expand(1, side, side)
    torch.manual_seed(0)
    drawn = [RandomResizedCrop.get_params(picture, list(scale), list(ratio)) for _ in range(count)]
    theirs = torch.tensor([[h * w / side**2, w / h, (top + h / 2) / side] for top, _, h, w in drawn])
    for own, other in zip(ours.T, theirs.T, strict=True):
        ranks = torch.linspace(0, 1, 101, dtype=torch.float32)
        spread = float(other.max() - other.min())
        found, asked = own.quantile(ranks[2:-2]), other.quantile(ranks[2:-2])
        torch.testing.assert_close(found, asked, atol=max(0.05 * spread, 2e-3), rtol=0)  # 3 errors of a quantile


def test_a_crop_s_mean_area_is_torchvision_s() -> None:
    crop = Crop(scale=(0.08, 1.0), ratio=(0.75, 4 / 3))
    windows = [crop.draw(generator("area", number)) for number in range(4000)]
    mean = sum(window.height * window.width for window in windows) / len(windows)
    assert mean == pytest.approx(0.478, abs=0.012)  # 3.5 errors; clipped windows have 0.536


def test_a_shift_lets_windows_leave_the_sample_by_so_much() -> None:
    drawn = [Crop(scale=(1, 1), ratio=(1, 1), shift=0.125).draw(generator("shift", number)) for number in range(500)]
    tops, lefts = [window.top for window in drawn], [window.left for window in drawn]
    assert {(window.height, window.width) for window in drawn} == {(1.0, 1.0)}
    for side in (tops, lefts):
        assert -0.125 <= min(side) < -0.12 and 0.12 < max(side) <= 0.125 and abs(sum(side) / 500) < 0.013  # 4 errors
    small = Crop(scale=(0.25, 0.25), ratio=(1, 1), shift=0.125)
    assert max(small.draw(generator("shift", number)).top for number in range(500)) > 0.62  # half a side, and the shift


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": (-0.5, 1.0)}, r"crop.scale must be two shares above 0 and up to 1, low to high, got \(-0.5, 1.0\)"),
        ({"scale": (0.5, 1.5)}, r"crop.scale must be .* got \(0.5, 1.5\)"),
        ({"scale": (0.9, 0.5)}, r"crop.scale must be .* got \(0.9, 0.5\)"),
        ({"scale": (math.nan, 1.0)}, r"crop.scale must be .* got \(nan, 1.0\)"),
        ({"ratio": (0.0, 1.0)}, r"crop.ratio must be two finite numbers above 0, low to high, got \(0.0, 1.0\)"),
        ({"ratio": (1.0, math.inf)}, r"crop.ratio must be .* got \(1.0, inf\)"),
        ({"ratio": (2.0, 1.0)}, r"crop.ratio must be .* got \(2.0, 1.0\)"),
        ({"flip": 3.0}, r"crop.flip must be from 0 to 1, got 3.0"),
        ({"flip": math.nan}, r"crop.flip must be from 0 to 1, got nan"),
        ({"shift": -0.1}, r"crop.shift must be from 0 to below 1, got -0.1"),
        ({"shift": math.nan}, r"crop.shift must be from 0 to below 1, got nan"),
        ({"windows": 0}, r"crop.windows must be at least 1, or None, got 0"),
    ],
)
def test_a_look_out_of_range_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Crop(**options)


def test_evaluation_sees_every_pair_once_in_order(shards: Shards, views: dict[str, View]) -> None:
    for workers in (0, 2):
        seen = torch.cat([part.index for part in sweep_parts(shards, views, batch_size=36, workers=workers)])
        assert seen.tolist() == list(range(96))


def test_augmentation_needs_draws_and_normalisation_does_not(shards: Shards, views: dict[str, View]) -> None:
    part = next(iter(sweep_parts(shards, views, batch_size=4)))
    batch = to_batch(part, views, "cpu")
    torch.testing.assert_close(batch.inputs["rgb"], views["rgb"].modality.normalise(part.adapted["rgb"]))


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_pieces_of_a_batch_are_augmented_as_the_whole(
    shards: Shards, views: dict[str, View], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = join(parts(shards, views, last_step=1))
    whole, plain = to_batch(part, views, "cpu").inputs, to_batch(replace(part, draws={}), views, "cpu").inputs
    for name, view in views.items():
        kind, count = type(view.modality), len(part.index)
        monkeypatch.setattr(reader, "AUGMENTED", rows * part.adapted[name][0].numel())
        with mock.patch.object(kind, "augment", autospec=True, side_effect=kind.augment) as seen:
            found = to_batch(part, {name: view}, "cpu").inputs[name]
        assert [len(call.args[1]) for call in seen.call_args_list] == [
            min(rows, count - i) for i in range(0, count, rows)
        ]
        torch.testing.assert_close(found, whole[name])
        assert not torch.equal(found, plain[name])


def test_a_view_takes_its_units_from_the_manifest(shards: Shards) -> None:
    assert open_view(shards, "depth", size=16).modality == MODALITIES.get("depth")(size=16, scale_m=0.001, invalid=0)
    with pytest.raises(ShardError, match=r"scale_m must be 0\.001, as the manifest of .* says, got 0\.01"):
        open_view(shards, "depth", size=16, scale_m=0.01)


def test_a_view_without_its_field_is_refused(shards: Shards) -> None:
    without = Shards(shards.folder, replace(shards.manifest, fields={"rgb": shards.manifest.fields["rgb"]}))
    with pytest.raises(ShardError, match=r"modality 'depth' reads 'depth', but .* has rgb"):
        open_view(without, "depth")


def held_as(shards: Shards, field: str, modality: str) -> Shards:
    """The shards, whose manifest says that a field holds another modality."""
    fields = {**shards.manifest.fields, field: Field(modality, "png", {})}
    return Shards(shards.folder, replace(shards.manifest, fields=fields))


def test_a_view_of_a_field_that_holds_another_modality_is_refused(shards: Shards) -> None:
    with pytest.raises(ShardError, match=r"modality 'depth' reads 'depth', but .* has 'audio' there"):
        open_view(held_as(shards, "depth", "audio"), "depth")
    with pytest.raises(ShardError, match=r"field 'audio' is of modality 'sonar', which is not known"):
        open_view(held_as(shards, "audio", "sonar"), "audio")


def test_modalities_that_read_the_same_field_open_one_anothers(shards: Shards) -> None:
    for name in ("rgb", "luminance", "chrominance"):
        assert open_view(shards, name).modality == MODALITIES.get(name)()
        assert open_view(held_as(shards, "rgb", name), "rgb")


def test_what_cannot_be_adapted_is_named(
    shards: Shards, views: dict[str, View], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise ValueError("a window of no size")

    monkeypatch.setattr(type(views["depth"].modality), "adapt", refuse)
    with pytest.raises(ShardError, match=r"000001.tar: pair '\S+', depth.png: a window of no size"):
        read_pair(shards, views, 30)


@pytest.fixture
def damaged(synthetic: Path, tmp_path: Path) -> Shards:
    """One unreadable picture, of pair 30, in place."""
    folder = Path(shutil.copytree(synthetic / "train", tmp_path / "train"))
    path, row = Shards.open(folder).locate(30)
    with path.open("r+b") as file:
        file.seek(row.members["rgb.jpg"][0])
        file.write(b"garbage!" * 4)
    return Shards.open(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_pair_stops_the_run_by_name(damaged: Shards, views: dict[str, View], workers: int) -> None:
    stream = PairStream(damaged, views, plan_of(damaged), crop=Crop(), last_step=plan_of(damaged).steps)
    with pytest.raises(ShardError, match=r"000001.tar: pair '\S+', rgb.jpg: .*\(on_error: skip uses another"):
        list(train_parts(stream, workers=workers))


def skipping(shards: Shards, views: dict[str, View], *, workers: int = 0, **options: int) -> SampleBatch:
    """Two epochs that replace what is unreadable."""
    plan = plan_of(shards)
    span = {"last_step": 2 * plan.steps, **options}
    return join(list(train_parts(PairStream(shards, views, plan, crop=Crop(), skip_unreadable=True, **span),
                                 workers=workers)))  # fmt: skip


def test_an_unreadable_pair_is_replaced_and_told_if_so_chosen(damaged: Shards, views: dict[str, View]) -> None:
    found = skipping(damaged, views)
    told = f"{damaged.folder / '000001.tar'}: pair {damaged.read(30, [])[0]!r}, rgb.jpg: "
    assert len(found.replaced) == 2  # once an epoch
    assert all(problem.startswith(told) for problem in found.replaced)
    assert 30 not in found.index
    assert len(found.index) == 2 * 96


@pytest.fixture
def halved(synthetic: Path, tmp_path: Path) -> Shards:
    """Two of the four shards are gone: pairs 25 to 74."""
    folder = Path(shutil.copytree(synthetic / "train", tmp_path / "halved"))
    for name in ("000001.tar", "000002.tar"):
        (folder / name).unlink()
    return Shards.open(folder)


def test_stand_ins_are_spread_over_all_readable_pairs(halved: Shards, views: dict[str, View]) -> None:
    found = skipping(halved, views)
    assert len(found.replaced) == 2 * 50  # pairs, not tries
    assert set(found.replaced) == {
        f"{halved.folder / name} is missing, though {halved.folder / 'manifest.json'} lists it"
        for name in ("000001.tar", "000002.tar")
    }
    counts = found.index.bincount(minlength=96) - 2  # each readable pair comes by itself in both epochs
    stands = torch.cat([counts[:25], counts[75:]])
    assert stands.sum() == 100
    assert stands.max() <= 9  # 100 draws of 46 pairs: a tenth comes with a probability below 0.001
    assert (stands > 0).sum() > 30  # 41 are expected


def test_stand_ins_depend_on_neither_ranks_nor_workers(halved: Shards, views: dict[str, View]) -> None:
    whole = skipping(halved, views, last_step=3)
    assert_same(skipping(halved, views, last_step=3, workers=2), whole)
    steps = [
        skipping(halved, views, first_step=step, last_step=step + 1, rank=rank, ranks=2)
        for step in range(3)
        for rank in range(2)
    ]
    assert_same(join(steps), whole)
    assert join(steps).replaced == whole.replaced


def test_shards_without_a_readable_pair_stop_the_run(halved: Shards, views: dict[str, View]) -> None:
    for name in ("000000.tar", "000003.tar"):
        (halved.folder / name).unlink()
    with pytest.raises(ShardError, match=r"is missing, .*; 100 pairs drawn in its place are unreadable too"):
        skipping(halved, views)


# --- signals ---


def signal_from_outside(name: str) -> None:
    """As torchrun, SLURM or a terminal does: to every worker, from another process than theirs."""
    workers = [str(child.pid) for child in multiprocessing.active_children()]
    assert len(workers) == 2
    subprocess.run(["kill", f"-{name}", *workers], check=True)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux tells a signal's sender")
@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize("loader", ["train", "sweep"])
def test_signals_to_the_whole_group_leave_workers_at_work(
    shards: Shards, views: dict[str, View], name: str, loader: str
) -> None:
    stream = PairStream(shards, views, plan_of(shards), crop=Crop(), last_step=40)
    make: dict[str, Callable] = {
        "train": lambda workers: train_parts(stream, workers=workers),
        "sweep": lambda workers: sweep_parts(shards, views, batch_size=2, workers=workers),
    }
    found = make[loader](2)
    begun = [next(found), next(found)]  # each worker has given a piece, so both are ready
    signal_from_outside(name)
    after = [*begun, *found]
    assert torch.equal(join(after).index, join(list(make[loader](0))).index)


def test_a_worker_ends_when_its_own_process_says_so(shards: Shards, views: dict[str, View]) -> None:
    """Python does at exit, and waits: a worker that ignored it would hang every run that ends in an error."""
    stream = PairStream(shards, views, plan_of(shards), crop=Crop(), last_step=2000)
    found = train_parts(stream, workers=2)
    next(found)
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(10)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()  # so that a failure of this test does not hang it
    assert codes == [os.EX_OK, os.EX_OK]


def begun(shards: Shards, views: dict[str, View]) -> tuple[Generator[SampleBatch, None, None], list[BaseProcess]]:
    """A long stream of two workers that have both given a part, and the workers by their number."""
    stream = PairStream(shards, views, plan_of(shards), crop=Crop(), last_step=2000)
    found = train_parts(stream, workers=2)
    next(found)
    return found, sorted(multiprocessing.active_children(), key=lambda child: child.pid or 0)


@pytest.mark.parametrize(("number", "cause"), [
    (signal.SIGKILL, "was ended by SIGKILL: most likely the kernel or the container ran out of memory"),
    (signal.SIGBUS, "was ended by SIGBUS: most likely /dev/shm is full"),
])  # fmt: skip
def test_a_worker_that_dies_is_reported_by_its_number_and_signal(
    shards: Shards, views: dict[str, View], number: int, cause: str
) -> None:
    found, children = begun(shards, views)
    os.kill(children[1].pid, number)
    with pytest.raises(LoaderError, match=rf"^worker 1 of the data loader \(process {children[1].pid}\) {cause}"):
        list(found)
    assert not any(child.is_alive() for child in children)


def test_a_workers_death_raises_only_where_its_part_is_waited_for(shards: Shards, views: dict[str, View]) -> None:
    """The handler of torch raises anywhere in the main thread; during a save, that looked like a full disk."""
    found, children = begun(shards, views)
    os.kill(children[0].pid, signal.SIGKILL)
    children[0].join(10)
    time.sleep(0.1)  # here
    with pytest.raises(LoaderError, match="worker 0"):
        list(found)


def test_a_stalled_worker_is_reported_again_and_again_and_waited_for(
    shards: Shards, views: dict[str, View], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = PairStream(shards, views, plan_of(shards), crop=Crop(), last_step=40)
    whole = join(list(train_parts(stream)))
    monkeypatch.setattr(loader, "SAY_SECONDS", 0.3)
    found = train_parts(stream, workers=2)
    first = next(found)
    children = sorted(multiprocessing.active_children(), key=lambda child: child.pid or 0)
    os.kill(children[1].pid, signal.SIGSTOP)
    told = rf"no data for \d+ s: .*worker 1 \(process {children[1].pid}\) (gave none; it )?is stopped by a signal"

    def continue_once_told_twice() -> None:
        deadline = time.monotonic() + 60
        while len(re.findall(told, caplog.text)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(children[1].pid, signal.SIGCONT)

    threading.Thread(target=continue_once_told_twice).start()
    assert torch.equal(join([first, *found]).index, whole.index)
    assert len(re.findall(told, caplog.text)) >= 2


def test_no_worker_is_waited_for_at_the_end_though_it_is_stopped(
    shards: Shards, views: dict[str, View], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "GRACE_SECONDS", 0.2)
    found, children = begun(shards, views)
    for child in children:
        os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 30
    assert [child.exitcode for child in children] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize(("error", "words"), [
    (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
     r"of \d+\.\d MB: /dev/shm is full, with \d+ MB in all and \d+ MB free; this process keeps up to 8 parts there"),
    (OSError(errno.EMFILE, "Too many open files"), r"of \d+\.\d MB: too many open files .*ulimit -n"),
])  # fmt: skip
def test_a_part_that_finds_no_shared_memory_is_an_error(
    shards: Shards, views: dict[str, View], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(loader, "ForkingPickler", mock.Mock(dumps=mock.Mock(side_effect=error)))
    stream = PairStream(shards, views, plan_of(shards), crop=Crop(), last_step=4)
    with pytest.raises(LoaderError, match=f"^worker 0 of the data loader cannot hand over a batch part {words}"):
        list(train_parts(stream, workers=2))


@pytest.mark.slow
@pytest.mark.skipif(subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/dev/shm"],
                                   capture_output=True, check=False).returncode != 0,
                    reason="needs a kernel that lets users mount")  # fmt: skip
def test_the_shared_memory_of_a_container_that_is_too_small_is_an_error() -> None:
    script = ("import torch; from crossmodal.data.loader import load_in_order; "
              "list(load_in_order([torch.zeros(10**6)] * 40, workers=2))")  # fmt: skip
    mounted = f"mount -t tmpfs -o size=5m none /dev/shm && {sys.executable} -c '{script}'"
    told = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted], capture_output=True, text=True, timeout=60, check=False
    )
    assert "of 3.8 MB: /dev/shm is full, with 5 MB in all and" in told.stderr


def test_a_part_travels_as_one_tensor_and_arrives_whole(shards: Shards, views: dict[str, View]) -> None:
    part = join([read_pair(shards, views, index, crop=Crop(), masks=True) for index in range(3)])
    part = replace(part, features={("rgb", "embedding"): torch.randn(3, 5).half()}, replaced=("why",))
    make, told = part.__reduce__()
    assert sum(isinstance(item, torch.Tensor) for item in told) == 1
    again = pickle.loads(pickle.dumps(part))
    assert again.replaced == ("why",) and torch.equal(make(*told).index, part.index)
    for name in ("adapted", "draws", "features", "present"):
        ours, theirs = getattr(again, name), getattr(part, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in theirs)
    for name in ("index", "label", "group"):
        assert torch.equal(getattr(again, name), getattr(part, name))


def test_pairs_of_a_block_are_shuffled_and_stay_near_one_another() -> None:
    plan = Plan(1024, 32, lanes=4, shuffle_block=64)
    for lane in plan.epoch(0).transpose(1, 0, 2).reshape(4, 256):
        steps = np.diff(lane)
        assert (steps == 1).mean() < 0.1  # of a random order one in 64
        blocks = lane.reshape(-1, 64)
        spans = np.sort(blocks, axis=1)
        wraps = (np.diff(spans, axis=1) > 1).sum(1)  # where the data's end meets its beginning
        assert (wraps <= 1).all() and wraps.sum() <= 1


def test_every_epoch_is_read_in_its_own_order(shards: Shards, views: dict[str, View]) -> None:
    plan = Plan(len(shards), 8, seed=1, lanes=2)
    parts = train_parts(PairStream(shards, views, plan, crop=Crop(), last_step=2 * plan.steps))
    read = [part.index.tolist() for part in parts]
    assert read == [plan.epoch(epoch)[step].ravel().tolist() for epoch in range(2) for step in range(plan.steps)]
    assert read[: plan.steps] != read[plan.steps :]


def test_a_part_has_the_labels_and_groups_of_its_pairs(shards: Shards, views: dict[str, View]) -> None:
    labels = [shards.facts(index)["label"] for index in range(len(shards))]
    read = [*parts(shards, views, last_step=3), *sweep_parts(shards, views, indices=[5, 3, 90])]
    for part in read:
        assert part.label.tolist() == [labels[index] for index in part.index.tolist()]
    assert torch.equal(shards.labels(), torch.tensor(labels)) and len(set(labels)) > 2


def test_a_batch_is_its_pairs_read_one_by_one(shards: Shards, views: dict[str, View]) -> None:
    plan = plan_of(shards)
    for step, part in enumerate(parts(shards, views, last_step=plan.steps + 1)):
        epoch = step // plan.steps
        for row, index in enumerate(part.index.tolist()):
            alone = read_pair(shards, views, index, crop=Crop(), address=(plan.seed, epoch))
            for name in views:
                assert torch.equal(part.adapted[name][row], alone.adapted[name][0])
                assert torch.equal(part.draws[name][row], alone.draws[name][0])


def test_pictures_are_augmented_before_they_are_normalised(shards: Shards, views: dict[str, View]) -> None:
    part = parts(shards, views, last_step=1)[0]
    modality, adapted, draws = views["rgb"].modality, part.adapted["rgb"], part.draws["rgb"]
    found = to_batch(part, views, "cpu").inputs["rgb"]
    torch.testing.assert_close(found, modality.normalise(modality.augment(adapted, draws)))
    assert not torch.allclose(found, modality.augment(modality.normalise(adapted), draws))


def test_some_rows_of_a_part_are_those_of_all_that_it_holds(shards: Shards, views: dict[str, View]) -> None:
    part = parts(shards, views, last_step=1)[0]
    some = part.each(lambda tensor: tensor[3:5])
    for name in ("index", "label", "group"):
        assert torch.equal(getattr(some, name), getattr(part, name)[3:5])
    for name in views:
        assert torch.equal(some.adapted[name], part.adapted[name][3:5])
        assert torch.equal(some.draws[name], part.draws[name][3:5])


def test_a_window_s_ratio_is_its_width_over_its_height() -> None:
    window = Crop(scale=(0.3, 0.3), ratio=(2.0, 2.0)).draw(generator("ratio"))
    assert window.width / window.height == pytest.approx(2) and window.width * window.height == pytest.approx(0.3)
