"""Shards in a store are those on the disk: the same bytes, the same batches, the same digests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stored import Store, now_and_then

from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, SampleBatch, open_view, train_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop


@pytest.fixture
def url(store: Store, synthetic: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a copy of the synthetic training shards, which a test may damage."""
    return store.upload(synthetic / "train", request.node.name.replace("[", "-").replace("]", ""))


def batches(place: str | Path, *, workers: int = 0, first: int = 0, skip: bool = False) -> list[SampleBatch]:
    shards = Shards.open(place)
    views = {"rgb": open_view(shards, "rgb", size=16), "depth": open_view(shards, "depth", size=16)}
    plan = Plan(len(shards), 16, lanes=4, shuffle_block=20, shard_starts=tuple(shards.starts[:-1].tolist()))
    stream = PairStream(shards, views, plan, crop=Crop(), first_step=first, last_step=9, skip_unreadable=skip)
    return [*train_parts(stream, workers=workers)]


def same(one: list[SampleBatch], other: list[SampleBatch]) -> bool:
    def tensors(parts: list[SampleBatch]) -> Iterator[torch.Tensor]:
        for part in parts:
            yield from (part.index, part.label, *part.adapted.values(), *part.draws.values())

    pairs = [*zip(tensors(one), tensors(other), strict=True)]
    return bool(pairs) and all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_the_batches_and_the_digest_are_those_of_the_local_shards(synthetic: Path, url: str) -> None:
    assert same(batches(url), batches(synthetic / "train"))
    assert Shards.open(url).manifest.digest == Shards.open(synthetic / "train").manifest.digest


@pytest.mark.slow
def test_the_workers_of_a_loader_read_a_store_too(synthetic: Path, url: str) -> None:
    Shards.open(url).facts(0)  # the libraries of stores keep threads, which a fork does not have
    assert same(batches(url, workers=2, first=4), batches(synthetic / "train")[4:])


@pytest.mark.parametrize("kind", ["503", "reset", "cut", "slow"])
def test_a_store_that_fails_now_and_then_gives_the_same_batches(
    store: Store, synthetic: Path, url: str, kind: str
) -> None:
    expected = batches(synthetic / "train")
    store.fault = now_and_then(3, kind)
    assert same(batches(url), expected)
    assert store.count("GET", ".tar") > 9


def test_a_step_takes_one_request_a_shard_and_pair_members_none_of_their_own(store: Store, url: str) -> None:
    batches(url)
    assert store.count("GET", ".json") == 1 and store.count("GET", ".npy") == 4
    assert store.count("GET", ".tar") <= 9 * 4  # 9 steps, at most 4 shards; 144 pairs of 3 members
