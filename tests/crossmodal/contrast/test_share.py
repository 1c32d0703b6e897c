"""A table of all pairs that ranks hold parts of; ranks are simulated, `test_ranks` has real ones."""

import pytest
import torch
import torch.distributed

from crossmodal.contrast.bank import Bank
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import PairIds, Relation
from crossmodal.contrast.share import Share
from modalities.common.random import generator


@pytest.mark.parametrize(("pairs", "ranks"), [(29, 4), (8, 2), (5, 4), (3, 1)])  # of five on four ranks, one has none
def test_every_pair_lies_on_one_rank_and_is_found_from_all(
    pairs: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(pairs, 3, generator=generator("share"))
    index = torch.randint(pairs, (40,), generator=generator("share", "index"))
    given: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", given.append)
    for rank in range(ranks):
        share = Share(pairs, rank, ranks)
        own = torch.full((share.size + 1, 3), 7.0)  # the last row has no meaning
        own[: len(share.range)] = rows[share.range.start : share.range.stop]
        taken = share.take_same(own, index)
        given += [taken] if ranks == 1 else []
    assert len(given) == ranks
    assert torch.equal(torch.stack(given).sum(0), rows[index])
    assert torch.equal((torch.stack(given) != 0).any(2).sum(0), torch.ones(40))


def test_a_rank_updates_only_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Negatives("bank", count=4, place="sharded", momentum=0.25)
    whole = Bank(Relation(True), 7, 3, Negatives("bank", count=4, momentum=0.25), name="x")
    monkeypatch.setattr(Share, "of", lambda pairs: Share(pairs, 1, 2))
    part = Bank(Relation(True), 7, 3, options, name="x")
    monkeypatch.setattr(Share, "is_full", lambda *_: False)
    for step in range(3):
        index = torch.tensor([6, 0, 4, 6])
        new = torch.randn(4, 3, generator=generator("update", step))
        for bank in (whole, part):
            bank.remember(new, PairIds(index, torch.tensor([1, 2, 3, 4])))
    for name in ("rows", "written", "key"):
        assert torch.equal(part.remembered[name][:3], whole.remembered[name][4:])


def test_a_sharded_bank_begins_with_the_noise_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Bank(Relation(), 70_001, 2, Negatives("bank", draw="sample"), name="x", eager=True)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(Share, "of", lambda pairs, rank=rank: Share(pairs, rank, 3))
        part = Bank(Relation(), 70_001, 2, Negatives("bank", draw="sample", place="sharded"), name="x", eager=True)
        assert part.share is not None
        assert len(part.rows) == 23_335  # a third, and the row for all else
        parts.append(part.rows[: len(part.share.range)])
    assert torch.equal(torch.cat(parts), whole.rows)


def test_what_needs_all_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="needs draw: shared or sample, because no rank holds all rows"):
        Negatives("bank", draw="all", place="sharded")
    with pytest.raises(ValueError, match="needs a count below 9, one less than the pairs"):
        Bank(Relation(), 10, 3, Negatives("bank", count=9, place="sharded"), name="x")
    with pytest.raises(ValueError, match="no positive: related"):
        Bank(Relation(True), 10, 3, Negatives("bank", count=4, place="sharded"), name="x", match="related")
