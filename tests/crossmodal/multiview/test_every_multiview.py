"""What every multiview objective promises, on one rank and on two."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from drawn import DIM, LABELS, PAIRS, ROWS, VIEWS, build, draw, show
from torch import Tensor

from crossmodal import MULTIVIEW
from crossmodal.contrast.options import Negatives
from crossmodal.distributed import gather, mean_over_ranks
from crossmodal.multiview import Multiview

VARIANTS: dict[str, dict[str, object]] = {
    **{name: {} for name in MULTIVIEW.names()},
    **{
        f"{name} {source} {draw_by}": {"negatives": Negatives(source, count=10, draw=draw_by)}
        for name in ("infonce", "nce")
        for source, draw_by in (("queue", "shared"), ("bank", "shared"), ("bank", "sample"), ("bank", "all"))
    },
    "infonce other": {"every_view": False},
    "infonce apart": {"negatives": Negatives(apart="label")},
    "nce gathered": {"negatives": Negatives("gathered")},
    "supcon in": {"form": "in"},
    "cacr queue": {"queue": 7},
    "cacr rbf": {"cost": "rbf", "queue": 7},
    "cacr debiased": {"tau_plus": 0.1},
    "align_uniform odd": {"alpha": 1.0, "t": 3.0},
}
HEATED = [name for name in VARIANTS if "temperature" in inspect.signature(MULTIVIEW.get(name.split()[0])).parameters]
EARLIER = [show(draw(f"earlier {step}", VIEWS, ROWS, DIM), index=torch.arange(ROWS) + step) for step in range(2)]


@pytest.fixture(params=VARIANTS)
def objective(request: pytest.FixtureRequest) -> Multiview:
    return build(request.param.split()[0], *EARLIER, **VARIANTS[request.param])


def test_forward_changes_nothing(objective: Multiview) -> None:
    views, state = show(draw("now", VIEWS, ROWS, DIM)), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in {**objective.state_dict(), **objective.memory()}.items()}
    given = views.queries.clone()
    assert torch.equal(objective(views).loss, objective(views).loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(views.queries, given)
    for name, tensor in {**objective.state_dict(), **objective.memory()}.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("momentum", [False, True])
def test_gradients_are_those_of_the_loss(objective: Multiview, momentum: bool) -> None:
    slow = draw("slow", VIEWS, ROWS, DIM) if momentum else None

    def total(vectors: Tensor) -> Tensor:
        return objective(show(F.normalize(vectors, dim=-1), slow)).loss

    assert torch.autograd.gradcheck(total, draw("now", VIEWS, ROWS, DIM).requires_grad_(), fast_mode=True)


def test_order_of_the_batch_does_not_matter(objective: Multiview) -> None:
    views, turn = show(draw("now", VIEWS, ROWS, DIM)), torch.tensor([2, 4, 0, 3, 1])
    turned = show(views.queries[:, turn], index=views.index[turn], label=views.label[turn])
    torch.testing.assert_close(objective(turned).loss, objective(views).loss)


def test_only_angles_matter(objective: Multiview) -> None:
    vectors, rotation = draw("now", VIEWS, ROWS, DIM), torch.linalg.qr(draw("rotation", DIM, DIM))[0]
    before = objective(show(vectors)).loss
    for remembered in objective.memory().values():
        if remembered.is_floating_point():
            remembered.copy_(remembered @ rotation)
    torch.testing.assert_close(objective(show(vectors @ rotation)).loss, before)


DEGENERATE: dict[str, Callable[[], Tensor]] = {
    "same": lambda: draw("one", 1, 1, DIM).expand(VIEWS, ROWS, DIM),
    "opposite": lambda: draw("one", 1, 1, DIM) * torch.tensor([1.0, -1.0, 1.0])[:, None, None].expand(-1, ROWS, -1),
    "pairs opposite": lambda: draw("one", 1, 1, DIM) * torch.tensor([1.0, -1, 1, -1, 1])[:, None],
    "one pair": lambda: draw("now", VIEWS, 1, DIM),
    "one pair, same": lambda: draw("one", 1, 1, DIM).expand(VIEWS, 1, DIM),
}


def check_finite(objective: Multiview, vectors: Tensor) -> None:
    vectors = vectors.float().expand(VIEWS, -1, -1).clone().requires_grad_()
    outcome = objective.float()(show(vectors))
    outcome.loss.backward()
    assert outcome.loss.dtype == torch.float32
    assert outcome.loss.isfinite() and vectors.grad is not None and vectors.grad.isfinite().all()
    for name, figure in outcome.figures.items():
        assert figure.isfinite() and not figure.requires_grad, name


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_views_stay_finite(objective: Multiview, kind: str) -> None:
    check_finite(objective, DEGENERATE[kind]())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_step_is_finite(name: str) -> None:
    for rows in (1, ROWS):
        check_finite(build(name.split(maxsplit=1)[0], **VARIANTS[name]), draw("now", VIEWS, rows, DIM))


@pytest.mark.parametrize("temperature", [0.001, 0.01, 100.0])
@pytest.mark.parametrize("name", HEATED)
def test_any_temperature_stays_finite(name: str, temperature: float) -> None:
    objective = build(name.split(maxsplit=1)[0], *EARLIER, temperature=temperature, **VARIANTS[name])
    for vectors in ({"now": lambda: draw("now", VIEWS, ROWS, DIM)} | DEGENERATE).values():
        check_finite(objective, vectors())


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith(("supcon", "cacr rbf"))])
def test_rows_of_the_same_pair_are_not_pushed_apart(name: str) -> None:
    """A batch of one pair twice is the mean of two batches of one. But supcon attracts rows, and rbf has no mean."""
    objective, twice = build(name.split(maxsplit=1)[0], *EARLIER, **VARIANTS[name]), draw("now", VIEWS, 2, DIM)
    index, label = torch.tensor([4, 4]), torch.tensor([1, 1])
    both = objective(show(twice, index=index, label=label)).loss
    alone = [objective(show(twice[:, row : row + 1], index=index[:1], label=label[:1])).loss for row in range(2)]
    torch.testing.assert_close(both, sum(alone) / 2)


def test_a_memo_is_remembered_and_memory_is_live(objective: Multiview) -> None:
    now = show(draw("now", VIEWS, ROWS, DIM), index=torch.arange(ROWS) + 7, label=torch.arange(ROWS) + 5)
    memo = objective(now).memo
    before = {name: tensor.clone() for name, tensor in objective.memory().items()}
    assert bool(memo) == bool(before)
    if memo:
        objective.remember(*memo)
    learnt = {name for name, tensor in objective.memory().items() if not torch.equal(tensor, before[name])}
    assert learnt == {name for name in before if not name.endswith("_due")}  # which begins anew after every look


def test_memory_restored_gives_the_same_loss(objective: Multiview, request: pytest.FixtureRequest) -> None:
    name, views = request.node.callspec.params["objective"], show(draw("now", VIEWS, ROWS, DIM))
    restored = build(name.split()[0], **VARIANTS[name])
    if objective.memory():
        assert not torch.equal(restored(views).loss, objective(views).loss)
    for key, tensor in restored.memory().items():
        tensor.copy_(objective.memory()[key])
    assert torch.equal(restored(views).loss, objective(views).loss)


def test_some_remember_and_some_have_a_temperature() -> None:
    assert 1 < len(HEATED) < len(VARIANTS)
    assert 1 < sum(bool(build(name.split()[0], **VARIANTS[name]).memory()) for name in VARIANTS) < len(VARIANTS)


@pytest.mark.parametrize(("name", "options", "needs"), [
    ("supcon", {}, True), ("infonce", {}, False), ("infonce", {"negatives": Negatives(apart="label")}, True),
    ("nce", {}, False), ("nce", {"negatives": Negatives(apart="label")}, True), ("cacr", {}, False),
])  # fmt: skip
def test_labels_are_needed_where_they_count(name: str, options: dict[str, object], needs: bool) -> None:
    assert build(name, **options).needs_labels == needs


# --- refusals ---


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", HEATED)
def test_temperatures_out_of_range_are_refused(name: str, temperature: float) -> None:
    with pytest.raises(
        ValueError, match=f"{name.split(maxsplit=1)[0]} needs a finite temperature from 0.001, got {temperature}"
    ):
        build(name.split(maxsplit=1)[0], temperature=temperature, **VARIANTS[name])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("infonce", {"negatives": Negatives("queue"), "every_view": True}, "every_view needs negatives of source"),
        ("infonce", {"negatives": Negatives(apart="group")}, "infonce: negatives.apart must be pair or label, got "),
        ("nce", {"negatives": Negatives(apart="group")}, "nce: negatives.apart must be pair or label, got group"),
        ("supcon", {"base_temperature": 0.0}, "base_temperature must be above 0, got 0.0"),
        ("cacr", {"tau_plus": 1.0}, "tau_plus from 0 to below 1, and all finite, got .* and 1.0"),
        ("cacr", {"tau_plus": 0.1, "cost": "rbf"}, "tau_plus .* euclidean"),
        *(("cacr", {name: -1}, f"{name}.* at least 0") for name in ("t_plus", "t_minus", "alpha", "beta", "queue")),
        ("cacr", {"rbf_t": 0.0}, "rbf_t above 0"),
        ("align_uniform", {"alpha": 0}, "above 0, align and uniform at least 0, and all finite, got 0"),
        ("align_uniform", {"t": -1.0}, "alpha and t must be above 0"),
        ("align_uniform", {"align": -1.0}, "align and uniform at least 0"),
        ("align_uniform", {"uniform": -1.0}, "align and uniform at least 0"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize(("name", "options", "words"), [
    ("supcon", {"form": "sum"}, "form must be out or in, got 'sum'"),
    ("cacr", {"cost": "cosine"}, "cost must be euclidean or rbf and weights graph or detached, got cosine and graph"),
    ("cacr", {"weights": "none"}, "got euclidean and none"),
])  # fmt: skip
def test_words_that_are_no_choice_are_refused(
    name: str, options: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the import hook
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", MULTIVIEW.names())
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    options = [item.name for item in inspect.signature(MULTIVIEW.get(name)).parameters.values()
               if isinstance(item.default, float)]  # fmt: skip
    assert options
    for option in options:
        if option != "temperature" or math.isnan(value):  # an infinite temperature makes all candidates alike
            with pytest.raises(ValueError, match=option):
                build(name, **{option: value})


# --- ranks ---

RANKS = 2
JOINT = {
    **VARIANTS,
    "cacr detached": {"weights": "detached", "queue": 7},
    **{f"supcon {form} alone": {"form": form} for form in ("out", "in")},
}


def take_steps(variant: str, rank: int = 0, ranks: int = 1) -> dict[str, Tensor]:
    """The loss and gradients of the last of three steps, as DDP takes their means, and what is remembered."""
    objective, rows = build(variant.split(maxsplit=1)[0], **JOINT[variant]), len(LABELS)
    mine = slice(rank * rows // ranks, (rank + 1) * rows // ranks)
    found: dict[str, Tensor] = {}
    for step in range(3):  # what a step remembers is in the next one's loss
        vectors = draw(f"step {step}", VIEWS, rows, DIM).requires_grad_()
        index = (torch.randperm(PAIRS, generator=torch.Generator().manual_seed(step))[:rows])[mine]
        pairings = () if "alone" in variant else None
        outcome = objective(show(vectors[:, mine], index=index, label=LABELS[mine], pairings=pairings))
        (gradient,) = torch.autograd.grad(outcome.loss, vectors)
        if outcome.memo:
            objective.remember(*map(gather, outcome.memo))
        scalars = {"loss": outcome.loss.detach(), **outcome.figures}
        found = {name: mean_over_ranks(value) for name, value in scalars.items()}
        found["gradient"] = gather(gradient[None]).mean(0)
    return {**found, **objective.memory()}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.save({name: take_steps(name, rank, RANKS) for name in JOINT}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINT)
def test_two_ranks_equal_one_with_the_joint_batch(name: str, two_ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = take_steps(name)
    assert alone["gradient"].abs().max() > 1e-3
    for rank in two_ranks:
        assert rank[name].keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(rank[name][key], value, atol=1e-9, rtol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
