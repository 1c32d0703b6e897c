"""The contrast core: heads against their formulas in loops, masks, pieces, and what pools remember."""

import contextlib
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal.contrast import losses
from crossmodal.contrast import scores as scores_module
from crossmodal.contrast.bank import Bank, draw_negatives
from crossmodal.contrast.build import build_pool
from crossmodal.contrast.in_batch import InBatch
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import PairIds, Pool, Relation
from crossmodal.contrast.queue import Queue
from crossmodal.contrast.scores import Candidates, contrast, log_sum_exp
from modalities.common.random import generator

HEADS = {"infonce": losses.infonce, "infonce_in": losses.infonce_in, "nce": losses.nce, "sigmoid": losses.sigmoid}
ZERO = torch.zeros((), dtype=torch.float64)


def draw(*shape: int, name: str = "any") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator("contrast", name, *shape))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def in_loops(head: str, row: list[float], positive: list[bool], valid: list[bool], bias: float) -> float:
    own = [s for s, p in zip(row, positive, strict=True) if p]
    apart = [s for s, p, v in zip(row, positive, valid, strict=True) if v and not p]
    if not own:
        return 0.0
    if head == "infonce":
        return sum(math.log(sum(math.exp(s) for s in own + apart)) - s for s in own) / len(own)
    if head == "infonce_in":
        return math.log(sum(math.exp(s) for s in own + apart) * len(own) / sum(math.exp(s) for s in own))
    threshold = bias + (math.log(max(len(apart), 1)) if head == "nce" else 0.0)
    attracted = sum(softplus(threshold - s) for s in own) / len(own)
    return attracted + sum(softplus(s - threshold) for s in apart)


def masks(anchors: int, candidates: int) -> tuple[Tensor, Tensor]:
    """Some of everything: anchors without a positive, without a negative, with several."""
    positive = draw(anchors, candidates, name="positive") > 0.8
    valid = draw(anchors, candidates, name="valid") > 0
    positive[0], valid[1], positive[2, :3] = False, False, True
    return positive, valid


@pytest.mark.parametrize("head", HEADS)
def test_heads_equal_their_formulas_in_loops(head: str) -> None:
    scores, (positive, valid) = 2 * draw(6, 9), masks(6, 9)
    losses, _ = HEADS[head](scores.clone(), positive, valid, ZERO + 0.3)
    for row, own, counts, loss in zip(scores.tolist(), positive.tolist(), valid.tolist(), losses.tolist(), strict=True):
        assert loss == pytest.approx(in_loops(head, row, own, counts, 0.3), abs=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_without_masks_the_first_is_positive_and_all_are_valid(head: str) -> None:
    scores = draw(5, 7)
    first = torch.zeros(5, 7, dtype=torch.bool)
    first[:, 0] = True
    found, expected = (HEADS[head](scores.clone(), *given, ZERO) for given in ((None, None), (first, ~first)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_head_gives_the_gradient_of_its_losses(head: str, masked: bool) -> None:
    scores, given = draw(6, 9), masks(6, 9) if masked else (None, None)
    _, gradient = HEADS[head](scores.clone(), *given, ZERO)
    step = 1e-6
    for row in range(6):
        for column in range(9):
            moved = [scores.clone(), scores.clone()]
            moved[0][row, column] += step
            moved[1][row, column] -= step
            up, down = (HEADS[head](each, *given, ZERO)[0].sum() for each in moved)
            assert gradient[row, column].item() == pytest.approx(float(up - down) / (2 * step), abs=1e-7)


def test_nce_lets_valid_negatives_count_for_all_that_are_wanted() -> None:
    scores, valid = draw(1, 5), torch.tensor([[False, True, True, False, False]])
    loss, _ = losses.nce(scores.clone(), None, valid, ZERO, negatives=8)
    row = scores[0].tolist()
    expected = softplus(math.log(8) - row[0]) + 4 * (softplus(row[1] - math.log(8)) + softplus(row[2] - math.log(8)))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("temperature", [0.001, 1.0, 1000.0])
def test_heads_are_finite_at_any_temperature_and_with_nothing_to_compare(head: str, temperature: float) -> None:
    scores = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]]) / temperature
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    for given in ((None, None), (None, nothing), (nothing, nothing), (~nothing, nothing)):
        losses, gradient = HEADS[head](scores.clone(), *given, torch.tensor(0.0))
        assert losses.isfinite().all() and gradient.isfinite().all()


# --- the core ---


def plain(head: str, anchors: Tensor, rows: Tensor, match: Tensor | None, *scale_and_bias: Tensor) -> Tensor:
    """The same by autograd over the whole of it; all candidates valid, the match positive, else row 0."""
    scale, bias = scale_and_bias
    scores = anchors @ rows.T * scale
    if match is not None:
        scores = torch.cat([(anchors * match).sum(1, keepdim=True) * scale, scores], 1)
    if head in ("infonce", "infonce_in"):
        return (scores.logsumexp(1) - scores[:, 0]).sum()
    threshold = bias + (math.log(scores.shape[1] - 1) if head == "nce" else 0.0)
    return F.softplus(threshold - scores[:, 0]).sum() + F.softplus(scores[:, 1:] - threshold).sum()


@pytest.mark.parametrize("piece", [1, 30, 10_000])
@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_pieces_give_the_loss_and_the_gradients_of_the_whole(
    head: str, matched: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "PIECE", piece)
    anchors, rows, match = (draw(*size).requires_grad_() for size in ((7, 4), (9, 4), (7, 4)))
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.5, 0.4))
    candidates = Candidates(rows, lambda piece: (None, None), match if matched else None)
    given = (anchors, rows, *([match] if matched else []), scale, bias)
    ours = contrast(HEADS[head], anchors, candidates, scale=scale, bias=bias)
    theirs = plain(head, anchors, rows, match if matched else None, scale, bias)
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(3 * loss, given, allow_unused=True) for loss in (ours, theirs)]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, torch.zeros_like(found) if expected is None else expected)


@pytest.mark.parametrize(("sparse", "in_place"), [(0, ("cpu",)), (0, ()), (1000, ())])
@pytest.mark.parametrize("piece", [1, 100, 10_000])
def test_picked_rows_give_what_gathered_rows_give(
    sparse: int, in_place: tuple[str, ...], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "SPARSE", sparse)
    monkeypatch.setattr(scores_module, "IN_PLACE", in_place)
    monkeypatch.setattr(scores_module, "PIECE", piece)
    anchors, rows, match = draw(5, 8).requires_grad_(), draw(50, 8), draw(5, 8).requires_grad_()
    picked = torch.randint(50, (5, 40), generator=generator("pick"))  # some rows several times
    candidates = Candidates(rows, lambda piece: (None, None), match, picked)
    ours = contrast(losses.infonce, anchors, candidates, scale=ZERO + 2, bias=ZERO)
    scores = torch.cat([(anchors * match).sum(1)[:, None], torch.einsum("bd,bkd->bk", anchors, rows[picked])], 1) * 2
    theirs = (scores.logsumexp(1) - scores[:, 0]).sum()
    torch.testing.assert_close(ours, theirs)
    for found, expected in zip(*(torch.autograd.grad(loss, (anchors, match)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected)
    total, count = log_sum_exp(anchors, candidates, ZERO + 2)
    torch.testing.assert_close(total - count, scores.exp().mean().log())


def test_nothing_of_the_size_of_the_scores_is_kept() -> None:
    anchors, rows = draw(64, 4).requires_grad_(), draw(1000, 4)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contrast(
            losses.nce, anchors, Candidates(rows, lambda piece: (None, None), rows[:64]), scale=ZERO + 1, bias=ZERO
        )
    assert kept and max(kept) <= anchors.numel()


# --- how candidates relate to anchors ---

ANCHORS = PairIds(torch.tensor([3, 5]), torch.tensor([1, -1]))
INDEX, KEY = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[1, 1, -1, 2]])


def related(relation: Relation, **given: Tensor) -> tuple[list | None, list | None]:
    positive, valid = relation.masks(ANCHORS, index=INDEX, key=KEY, **given)(slice(0, 2))
    return tuple(None if mask is None else mask.int().tolist() for mask in (positive, valid))


def test_a_row_of_the_own_pair_is_no_negative() -> None:
    assert related(Relation()) == (None, [[0, 0, 1, 1, 1], [0, 1, 1, 0, 1]])


def test_keys_keep_apart_where_both_have_one() -> None:
    assert related(Relation(keyed=True)) == (None, [[0, 0, 0, 1, 1], [0, 1, 1, 0, 1]])


def test_keys_make_positives_where_both_have_one() -> None:
    positive, _ = related(Relation(keyed=True, together=True))
    assert positive == [[1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]


def test_rows_that_do_not_count_are_neither() -> None:
    positive, valid = related(Relation(keyed=True, together=True), valid=torch.tensor([[True, False, True, True]]))
    assert positive == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert valid == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 1]]


# --- pools ---


def known(*index: int, key: int = -1) -> PairIds:
    return PairIds(torch.tensor(index), torch.full((len(index),), key))


def met(pool: Pool, live: Tensor, facts: PairIds, seed: int = 0) -> Candidates:
    return pool.candidates(live, pool.choose(facts, seed))


def valid_of(pool: Pool, live: Tensor, facts: PairIds) -> Tensor:
    valid = met(pool, live, facts).relate(slice(0, len(live)))[1]
    assert valid is not None
    return valid[:, 1:].expand(len(live), -1)


def test_in_the_batch_all_others_are_negatives() -> None:
    live = draw(3, 4).requires_grad_()
    for gathered in (False, True):
        pool = InBatch(Relation(), gathered=gathered)
        assert valid_of(pool, live, known(7, 2, 7)).int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
        assert pool.remembered == {}


def test_a_queue_holds_the_last_and_no_place_counts_before_it_is_filled() -> None:
    queue = Queue(Relation(), 5, 2, dtype=torch.float64)
    live, facts = draw(1, 2), known(99)
    assert not valid_of(queue, live, facts).any()
    for step in range(3):
        queue.remember(torch.full((2, 2), float(step), dtype=torch.float64), known(2 * step, 2 * step + 1))
        assert valid_of(queue, live, facts).sum() == min(2 * step + 2, 5)
    assert queue.remembered["index"].tolist() == [5, 1, 2, 3, 4]
    assert queue.remembered["rows"][:, 0].tolist() == [2, 0, 1, 1, 2]
    assert valid_of(queue, live, known(3)).int().tolist() == [[1, 1, 1, 0, 1]]


def test_a_queue_of_what_a_head_is_given_asks_it_anew_beside_the_live_batch() -> None:
    head = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    queue = Queue(Relation(), 4, 3, dtype=torch.float64, project=head)
    queue.remember(torch.ones(2, 3, dtype=torch.float64), known(7, 8))
    live, facts = draw(3, 2).requires_grad_(), known(5, 7, 6)
    assert valid_of(queue, live, facts).int().tolist() == [
        [1, 1, 0, 0, 0, 1, 1],
        [0, 1, 0, 0, 1, 0, 1],
        [1, 1, 0, 0, 1, 1, 0],
    ]
    rows = met(queue, live, facts).rows
    assert torch.equal(rows, torch.cat([head(queue.remembered["rows"]), live]))
    rows.sum().backward()
    assert live.grad is not None and live.grad.all()
    torch.testing.assert_close(head.weight.grad, torch.full((2, 3), 2.0).double())


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_queue_in_half_precision_holds_embeddings_of_any_size(dtype: torch.dtype, size: float) -> None:
    queue = Queue(Relation(), 4, 3, dtype=dtype, project=torch.nn.Identity())
    rows = size * draw(2, 3).float()
    queue.remember(rows, known(7, 8))
    found = met(queue, draw(1, 3).float(), known(5)).rows
    torch.testing.assert_close(found[:2], rows, rtol=5e-3, atol=1e-2 * size)


@pytest.mark.parametrize(("dtype", "momentum"), [("float16", 0.98), ("bfloat16", 0.9)])
def test_rows_in_half_precision_come_near_what_they_follow(dtype: str, momentum: float) -> None:
    held = bank(dim=64, momentum=momentum, dtype=dtype, eager=True)
    target = F.normalize(torch.randn(1, 64, generator=generator("target")), dim=1)
    for _ in range(int(10 / (1 - momentum))):
        held.remember(target, known(2))
    assert (held.rows[2].float() - target).norm() < 0.05


def test_a_queue_shorter_than_a_batch_keeps_its_end() -> None:
    queue = Queue(Relation(), 3, 1, dtype=torch.float32)
    queue.remember(torch.arange(5.0)[:, None], known(*range(5)))
    assert sorted(queue.remembered["rows"].flatten().tolist()) == [2.0, 3.0, 4.0]


def bank(pairs: int = 6, dim: int = 4, *, momentum: float = 0.25, relation: Relation | None = None, **given) -> Bank:
    options = {name: given.pop(name) for name in ("count", "draw", "dtype", "place") if name in given}
    chosen = Negatives("bank", momentum=momentum, **options)
    return Bank(relation or Relation(), pairs, dim, chosen, name="t", **given)


def test_bank_rows_move_by_momentum_and_others_stay() -> None:
    held = bank(eager=True)
    before, came = held.rows.clone(), F.normalize(torch.randn(2, 4), dim=1)
    held.remember(came, known(4, 1))
    for row, one in zip((4, 1), came, strict=True):
        torch.testing.assert_close(held.rows[row], F.normalize(0.25 * before[row] + 0.75 * one, dim=0))
    assert torch.equal(held.rows[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def test_without_momentum_a_row_is_what_came() -> None:
    held, came = bank(momentum=0.0), F.normalize(torch.randn(1, 4), dim=1)
    held.remember(came, known(2))
    torch.testing.assert_close(held.rows[2:3], came)


class WritesBackwards(TorchDispatchMode):
    """Writes to an index from its last to its first, as CUDA may."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index_put_.default:
            rows, indices, values, *rest = args
            if values.ndim:
                args = (rows, [index.flip(0) for index in indices], values.flip(0), *rest)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", [contextlib.nullcontext, WritesBackwards])
def test_of_a_repeated_index_the_last_occurrence_counts_in_whatever_order_rows_are_written(
    order: Callable[[], contextlib.AbstractContextManager],
) -> None:
    held = bank(eager=True)
    index, rows = torch.tensor([4, 1, 4, 2, 1, 4]), torch.randn(6, 4, generator=generator("repeated"))
    expected, before = held.rows.clone(), held.rows.clone()
    for pair, row in zip(index.tolist(), rows, strict=True):
        expected[pair] = F.normalize(0.25 * before[pair] + 0.75 * row, dim=0)
    with order():
        held.remember(rows, PairIds(index, index))
    torch.testing.assert_close(held.rows, expected)


@pytest.mark.parametrize("draw_by", ["shared", "sample", "all"])
def test_an_anchor_whose_row_is_missing_meets_its_batch_and_any_other_the_written_rows(draw_by: str) -> None:
    held, facts = bank(pairs=50, count=30, draw=draw_by), known(3, 8, 41, 40)
    live, written = F.normalize(torch.randn(4, 4), dim=1), [3, 4, 8, 9, 20, 21, 22, 30, 31, 32]
    every = met(held, live, facts)
    assert torch.equal(every.match, live) and torch.equal(valid_of(held, live, facts)[:, -4:], ~torch.eye(4).bool())
    assert not valid_of(held, live, facts)[:, :-4].any()
    held.remember(F.normalize(torch.randn(10, 4), dim=1), known(*written))
    candidates, valid = met(held, live, facts), valid_of(held, live, facts)
    torch.testing.assert_close(candidates.match, torch.cat([held.rows[[3, 8]], live[2:]]))
    for row, own in enumerate((3, 8)):
        seen = {tuple(item) for item in candidates.rows[valid[row]].tolist()}
        assert seen
        assert seen <= {tuple(held.rows[pair].tolist()) for pair in written if pair != own}
    assert torch.equal(candidates.rows[valid[2]], live[[0, 1, 3]])


def test_a_full_bank_is_asked_for_rows_alone() -> None:
    held, live = bank(pairs=50, count=30, draw="sample"), torch.randn(2, 4)
    for first in range(0, 50, 5):
        assert held.is_filling and met(held, live, known(3, 8)).picked is None
        held.remember(F.normalize(torch.randn(5, 4), dim=1), known(*range(first, first + 5)))
    assert not held.is_filling
    candidates = met(held, live, known(3, 8))
    assert candidates.picked is not None and candidates.relate(slice(0, 2)) == (None, None)
    assert torch.equal(candidates.match, held.rows[[3, 8]])
    again = bank(pairs=50, count=30, draw="sample")
    for name, item in again.remembered.items():
        item.copy_(held.remembered[name])
    assert not again.is_filling


def test_only_live_rows_of_a_filling_bank_get_a_gradient() -> None:
    held, live, anchors = bank(pairs=50, count=30), torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    held.remember(F.normalize(torch.randn(1, 4), dim=1), known(3))
    candidates = met(held, live, known(3, 8, 9))
    scale, bias = torch.tensor(2.0), torch.tensor(0.0)
    contrast(losses.infonce, anchors, candidates, scale=scale, bias=bias).backward()
    leaf = live.detach().clone().requires_grad_()
    scores = 2 * anchors[1:] @ leaf.T
    F.cross_entropy(scores, torch.tensor([1, 2]), reduction="sum").backward()
    assert live.grad is not None and leaf.grad is not None
    torch.testing.assert_close(live.grad, leaf.grad)


def test_a_published_bank_counts_from_the_start() -> None:
    live = torch.randn(2, 4)
    candidates = met(bank(pairs=50, count=30, draw="sample", eager=True), live, known(3, 8))
    assert candidates.relate(slice(0, 2)) == (None, None)


def test_a_shared_draw_of_a_published_bank_leaves_out_the_pairs_of_the_batch_and_no_other() -> None:
    held, facts = bank(pairs=50, count=30, eager=True), known(*range(0, 50, 3))
    drawn = held.choose(facts, 0).shared
    assert drawn is not None
    valid = valid_of(held, torch.randn(17, 4), facts)
    assert torch.equal(valid, (drawn % 3 != 0).expand(17, -1)) and valid.any()


def test_related_matches_share_the_key() -> None:
    held = bank(pairs=40, relation=Relation(keyed=True), match="related")
    rows = F.normalize(torch.randn(40, 4), dim=1)
    held.remember(rows, PairIds(torch.arange(40), torch.arange(40) % 4))
    facts = PairIds(torch.arange(8), torch.tensor([0, 1, 2, 3, 0, 1, 2, -1]))
    match = met(held, torch.randn(8, 4), facts, 5).match
    found = [(match[row][None] == held.rows).all(1).nonzero().item() for row in range(8)]
    assert [pair % 4 for pair in found[:7]] == [0, 1, 2, 3, 0, 1, 2]
    assert found[:7] != list(range(7)) and found[7] == 7


def test_related_matches_are_uniform_over_the_key_s_pairs() -> None:
    held = bank(pairs=40, relation=Relation(keyed=True), match="related")
    facts = PairIds(torch.arange(40), torch.arange(40) % 4)
    held.remember(F.normalize(torch.randn(40, 4), dim=1), facts)
    drawn = torch.stack([held.choose(facts, seed).match for seed in range(200)])
    for key in range(4):
        counts = drawn[:, facts.key == key].flatten().bincount(minlength=40)[facts.key == key]
        assert counts.sum() == 2000 and ((counts - 200) ** 2 / 200).sum() < 27.9  # 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("place", ["device", "host"])
def test_a_bank_in_half_precision_answers_nearly_the_same(dtype: str, place: str) -> None:
    wide, half = bank(pairs=50, count=30), bank(pairs=50, count=30, dtype=dtype, place=place)
    live, rows = F.normalize(torch.randn(2, 4), dim=1), F.normalize(torch.randn(50, 4), dim=1)
    found = []
    for held in (wide, half.float()):
        held.remember(rows, known(*range(50)))
        found.append(contrast(losses.nce, live, met(held, live, known(3, 8)), scale=torch.tensor(10.0),
                              bias=torch.tensor(0.0)))  # fmt: skip
    assert half.rows.dtype == getattr(torch, dtype) and wide.rows.dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("sparse", [0, 1000])
@pytest.mark.parametrize("draw", ["sample", "all"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_bank_in_half_precision_is_widened_a_few_rows_at_a_time(
    dtype: str, draw: str, sparse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "SPARSE", sparse)
    monkeypatch.setattr(scores_module, "PIECE", 40)  # ten rows
    wide, half = bank(pairs=50, count=30, draw=draw), bank(pairs=50, count=30, draw=draw, dtype=dtype)
    half.remember(F.normalize(torch.randn(50, 4), dim=1), known(*range(50)))
    for name, item in wide.remembered.items():
        item.copy_(half.remembered[name])
    found = []
    for held in (wide, half):
        live = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), dim=1).requires_grad_()
        candidates = met(held, live.detach(), known(3, 8, 9))
        loss = contrast(losses.infonce, live, candidates, scale=torch.tensor(10.0), bias=torch.tensor(0.0))
        total, _ = log_sum_exp(live.detach(), candidates, torch.tensor(10.0))
        found.append([loss.detach(), *torch.autograd.grad(loss, live), total])
    assert candidates.rows is half.rows
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("source", ["batch", "gathered", "queue", "bank"])
def test_every_source_is_built(source: str) -> None:
    options = {"count": 8} if source in ("queue", "bank") else {}
    pool = build_pool(Negatives(source, **options), Relation(), 10, 4, name="t")
    pool.remember(draw(2, 4).float(), known(1, 2))
    candidates = met(pool, draw(3, 4).float(), known(4, 5, 6), 1)
    assert contrast(losses.infonce, draw(3, 4).float(), candidates, scale=torch.tensor(1.0), bias=torch.tensor(0.0)) > 0


def test_a_draw_never_holds_the_pair_itself() -> None:
    index = torch.arange(50)
    drawn = draw_negatives(7, index, 50, 2000)
    assert not (drawn == index[:, None]).any()
    assert drawn.unique().tolist() == list(range(50))
    assert (draw_negatives(7, index, 50, 2000, own=True) == index[:, None]).any()


def test_draws_are_uniform_over_the_other_pairs() -> None:
    counts = draw_negatives(1, torch.tensor([4]), 11, 100_000)[0].bincount(minlength=11)
    others = counts[counts > 0]
    assert len(others) == 10
    chi_square = ((others - 10_000) ** 2 / 10_000).sum().item()
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_draws_follow_the_pair_not_its_place() -> None:
    drawn = draw_negatives(7, torch.tensor([3, 9, 5]), 50, 20)
    turned = draw_negatives(7, torch.tensor([5, 3, 9]), 50, 20)
    assert torch.equal(drawn[[2, 0, 1]], turned)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count must be at least 1 and momentum from 0 to below 1, got 0 and 0.5"),
        ({"momentum": 1.0}, "got 16384 and 1.0"),
        (
            {"dtype": "bfloat16", "momentum": 0.99},
            "rows in bfloat16 stop 39% short of their embeddings at momentum 0.99",
        ),
        ({"source": "batch", "count": 8}, "negatives of source batch have no count, got 8; leave it out"),
        ({"source": "gathered", "draw": "all"}, "negatives of source gathered have no draw, got all"),
        ({"source": "queue", "place": "host"}, "negatives of source queue have no place, got host"),
        ({"place": "host", "draw": "all"}, "needs draw: shared, because other draws copy too many rows, got all"),
    ],
)
def test_options_of_negatives_out_of_range_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Negatives(**options)


def test_pairs_without_a_key_are_negatives_of_one_another() -> None:
    anchors = PairIds(torch.tensor([3]), torch.tensor([-1]))
    rows = PairIds(torch.tensor([3, 4, 5]), torch.tensor([-1, -1, 2]))
    for together in (False, True):
        positive, valid = Relation(keyed=True, together=together).masks_of(anchors, rows)(slice(None))
        assert valid is not None and valid.tolist() == [[False, False, True, True]]
        assert positive is None or positive.tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("piece", [1, 1 << 22])
def test_rows_that_do_not_count_are_not_in_the_sum_of_scores(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "PIECE", piece)
    anchors, rows, match = draw(4, 8), draw(9, 8), draw(4, 8, name="match")
    valid = draw(4, 10, name="valid") > 0
    valid[:, 0] = False  # as a mask of negatives has it; the match counts all the same
    total, count = log_sum_exp(anchors, Candidates(rows, lambda piece: (None, valid[piece]), match), ZERO + 2)
    scores = torch.cat([(anchors * match).sum(1)[:, None], anchors @ rows.T], 1) * 2
    counted = [scores[i, j].exp().item() for i in range(4) for j in range(10) if j == 0 or valid[i, j]]
    assert 4 < len(counted) < 40 and count.exp().item() == pytest.approx(len(counted))
    assert total.exp().item() == pytest.approx(sum(counted))


@pytest.mark.parametrize("gathered", [True, False])
def test_the_others_of_a_batch_get_the_gradient_of_being_negatives(gathered: bool) -> None:
    live, anchors = draw(3, 4, name="live").requires_grad_(), draw(3, 4, name="anchors")
    pool, pairs = InBatch(Relation(), gathered=gathered), PairIds(torch.arange(3), torch.full((3,), -1))
    contrast(
        losses.infonce, anchors, pool.candidates(live, pool.choose(pairs, 0)), scale=ZERO + 1, bias=ZERO
    ).backward()
    again = live.detach().clone().requires_grad_()
    F.cross_entropy(anchors @ again.T, torch.arange(3), reduction="sum").backward()
    torch.testing.assert_close(live.grad, again.grad)
