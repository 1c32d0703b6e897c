"""Figures against other people's code, closed forms and cases that can be checked by eye."""

import itertools
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchmetrics.retrieval import RetrievalHitRate

from crossmodal.data.views import Crop
from crossmodal.encoders import Encoder, Features, Leave, Spec, stay
from crossmodal.metrics import few_labels, neighbours, probe, retrieval
from crossmodal.metrics.accuracy import accuracy
from modalities import MODALITIES
from modalities.common.random import generator


def normal(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator("evaluation", name))


def recalls(queries: Tensor, gallery: Tensor, at: tuple[int, ...]) -> dict[int, float]:
    return {k: hits.mean().item() for k, hits in retrieval.hits(queries, gallery, at=at).items()}


def test_accuracy_is_of_the_pairs_with_a_label() -> None:
    assert accuracy(torch.tensor([1, 0, 0, 0]), torch.tensor([1, 1, 0, -1])) == pytest.approx(2 / 3)


def test_recall_equals_torchmetrics() -> None:
    ours, theirs = normal(50, 6, name="a"), normal(50, 6, name="b") + normal(50, 6, name="a")
    scores = torch.nn.functional.normalize(ours) @ torch.nn.functional.normalize(theirs).T
    for k, share in recalls(ours, theirs, at=(1, 5, 10)).items():
        metric = RetrievalHitRate(top_k=k)
        metric.update(scores.flatten(), torch.eye(50).bool().flatten(), torch.arange(50).repeat_interleave(50))
        assert share == pytest.approx(metric.compute().item())


def test_recall_by_eye() -> None:
    gallery = torch.eye(3)
    queries = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.1, 0.2, 0.15]])
    assert [counts.tolist() for counts in retrieval.ranks(queries, gallery)] == [[0, 1, 1], [1, 1, 1]]
    assert recalls(queries, gallery, at=(1, 2)) == {1: pytest.approx(1 / 3), 2: 1.0}


@pytest.mark.parametrize("rows", [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 3], [2, 0, 1, 0, 0, 3], [0, 1, 2, 3, 4, 4]])
def test_recall_by_label_is_the_mean_over_all_orders_of_ties(rows: list[int]) -> None:
    gallery = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 1.0], [1.0, 0.0], [-3.0, 4.0]])[rows]
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [1.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    labels = torch.tensor([0, 1, 0, 2, -1, 1])
    scores = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2).mul(1e4).round()
    orders = [*itertools.permutations(range(6))]
    for k, found in retrieval.hits_by_label(queries, gallery, labels, at=(1, 2, 3, 6)).items():
        assert found[4].isnan()
        for query in (0, 1, 2, 3, 5):
            hits = [any(labels[row] == labels[query] for row in sorted(order, key=lambda row: -scores[query][row])[:k])
                    for order in orders]  # fmt: skip
            assert found[query].item() == pytest.approx(sum(hits) / len(hits)), (k, query)


def test_chance_by_label_is_the_mean_over_random_orders() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, -1])
    for k in (1, 3, 7):
        hits = [any(labels[row] == labels[query] for row in some)
                for query in range(6) for some in itertools.combinations(range(7), k)]  # fmt: skip
        assert retrieval.chance_by_label(labels, k) == pytest.approx(sum(hits) / len(hits))


def test_a_collapsed_embedding_retrieves_at_chance() -> None:
    for ours, theirs in ((torch.ones(200, 4), normal(200, 4)), (torch.ones(200, 4), torch.ones(200, 4))):
        assert recalls(ours, theirs, at=(1, 10)) == {1: pytest.approx(0.005), 10: pytest.approx(0.05)}
        assert recalls(theirs, ours, at=(1, 10)) == {1: pytest.approx(0.005), 10: pytest.approx(0.05)}


@pytest.mark.parametrize("rows", [[0, 0, 0, 0, 0], [0, 0, 1, 1, 2], [2, 0, 1, 0, 0], [0, 1, 2, 3, 4]])
def test_recall_is_the_mean_over_all_orders_of_ties(rows: list[int]) -> None:
    gallery = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 1.0], [1.0, 0.0], [-3.0, 4.0]])[rows]
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [1.0, 1.0], [1.0, 0.0]])
    scores = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2).mul(1e4).round()
    orders = [*itertools.permutations(range(5))]
    for k, share in recalls(queries, gallery, at=(1, 2, 3, 5)).items():
        hits = [query in sorted(order, key=lambda row: -scores[query][row])[:k]  # stable
                for query in range(5) for order in orders]  # fmt: skip
        assert share == pytest.approx(sum(hits) / len(hits))


def test_ranks_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = normal(50, 6, name="a"), normal(50, 6, name="b")
    whole = retrieval.ranks(ours, theirs)
    monkeypatch.setattr(retrieval, "SCORES", 350)  # of 50 rows: seven queries at once
    torch.testing.assert_close(retrieval.ranks(ours, theirs), whole, rtol=0, atol=0)


@pytest.mark.parametrize("rows", [torch.full((5, 3), torch.nan), torch.tensor([[1.0, 2.0]] * 4 + [[torch.inf, 1.0]])])
def test_embeddings_that_are_not_finite_retrieve_nothing(rows: torch.Tensor) -> None:
    for pair in ((rows, torch.ones_like(rows)), (torch.ones_like(rows), rows)):
        with pytest.raises(ValueError, match="must be finite to be compared"):
            retrieval.ranks(*pair)


@pytest.mark.parametrize("place", [0.0, 100.0])
@pytest.mark.parametrize("at_once", [retrieval.ROWS, 35])  # 35: of 40 rows, 7 are read at once
def test_the_linear_map_equals_scikit_learn(place: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS", at_once)
    inputs, targets = normal(40, 5, name="a") + place, normal(40, 3, name="b")
    theirs = Ridge(alpha=0.1 * 40 * inputs.double().numpy().var(axis=0).mean()).fit(inputs.double(), targets)
    ours = retrieval.apply_map(inputs, retrieval.ridge(inputs, targets, strength=0.1))
    torch.testing.assert_close(ours, torch.from_numpy(theirs.predict(inputs)).float(), atol=1e-4, rtol=1e-4)


def test_nearest_neighbour_classes_by_eye() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels = torch.tensor([1, 1, 0])
    test = torch.tensor([[2.0, 0.1], [0.1, 5.0]])
    assert neighbours.classify(train, labels, test, neighbours=1).tolist() == [1, 0]
    assert neighbours.classify(train, labels, test, neighbours=20).tolist() == [1, 0]  # nearer votes count more


def test_neighbours_regress_as_scikit_learn() -> None:
    train, targets, test = normal(60, 4, name="a"), normal(60, 2, name="t"), normal(9, 4, name="b")
    unit = torch.nn.functional.normalize
    theirs = KNeighborsRegressor(5).fit(unit(train).numpy(), targets.numpy()).predict(unit(test).numpy())
    torch.testing.assert_close(neighbours.regress(train, targets, test), torch.from_numpy(theirs).float())


@pytest.fixture
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a linear probe is fitted."""
    if request.param == "batches":
        monkeypatch.setattr(probe, "LARGE", 0)
        monkeypatch.setattr(probe, "LEAST_BATCH", 32)  # so that a batch is a part of the rows
        monkeypatch.setattr(probe, "PIECE", 40)  # so that a sum over all rows has several blocks
    return request.param


@pytest.mark.parametrize("solver", ["L-BFGS", "batches"], indirect=True)
def test_the_linear_probe_equals_scikit_learn(solver: str) -> None:
    labels = torch.arange(90) % 3
    train, test = normal(90, 5, name="a") + labels[:, None] * 0.5, normal(400, 5, name="b") + 0.5
    scale = lambda rows: ((rows - train.mean(0)) / train.std(0, unbiased=False)).numpy()  # noqa: E731
    theirs = LogisticRegression(C=1 / (1e-3 * len(train)), max_iter=2000).fit(scale(train), labels.numpy())
    ours = probe.linear_probe(train, labels, test, 3)
    assert (ours.numpy() == theirs.predict(scale(test))).mean() > 0.99


def test_a_large_probe_holds_no_copy_of_its_rows_and_no_logits_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LARGE", 1 << 12)
    monkeypatch.setattr(probe, "PIECE", 1 << 10)
    for name, value in (("LEAST_BATCH", 16), ("LEAST_STEPS", 20), ("PASSES", 1)):
        monkeypatch.setattr(probe, name, value)
    rows, made = normal(1 << 10, 8, name="rows"), list[int]()

    class Sizes(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.untyped_storage().data_ptr() != rows.data_ptr():
                made.append(found.untyped_storage().nbytes())
            return found

    with Sizes():
        probe.linear_probe(rows, torch.arange(1 << 10) % 32, rows[:40], 32)
    assert len(made) > 100 and max(made) <= 1 << 13 < rows.untyped_storage().nbytes()


def test_a_feature_that_is_silent_among_the_labelled_rows_does_not_decide() -> None:
    labels, sign = torch.tensor([0, 0, 1, 1]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    train = torch.stack([sign, 1e-4 * sign], 1)  # the second feature tells the classes apart too, but hardly varies
    truth, sign = torch.arange(20) % 2, 1 - 2.0 * (torch.arange(20) % 2)
    test = torch.stack([-sign, sign * torch.linspace(1, 3, 20)], 1)  # where it varies, it contradicts the first
    assert torch.equal(probe.linear_probe(train, labels, test, 2), truth)


def test_the_scale_of_an_embedding_and_of_its_features_does_not_matter() -> None:
    labels, scales = torch.arange(40) % 4, torch.tensor([1.0, 0.5, 2.0, 0.25, 4.0])  # none below a tenth of the mean
    train, test = normal(40, 5, name="a") + labels[:, None] * 0.5, normal(200, 5, name="b")
    found = probe.linear_probe(train, labels, test, 4)
    for scale in (scales, 1e-4, 1e4):
        again = probe.linear_probe(train * scale + 3.0 * scale, labels, test * scale + 3.0 * scale, 4)
        assert (again == found).double().mean() > 0.98  # rounding moves rows that lie on a border


def test_rows_that_are_all_the_same_are_probed_without_dividing_by_0() -> None:
    train, test = torch.ones(6, 3), torch.cat([torch.ones(2, 3), normal(5, 3)])
    assert probe.linear_probe(train, torch.tensor([0, 1, 1, 1, 2, 2]), test, 3).tolist() == [1] * 7


def test_labelled_pairs_are_balanced_and_nested_in_their_seed() -> None:
    labels = torch.tensor([0, 1, -1, 1, 0, 1, 0, -1, 1])
    chosen = few_labels.pick_labelled(labels, 2, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 0, 1, 1]
    assert few_labels.pick_labelled(labels, None, seed=0) == [0, 1, 3, 4, 5, 6, 8]
    assert set(few_labels.pick_labelled(labels, 1, seed=0)) < set(chosen)  # more labels only add
    assert any(few_labels.pick_labelled(labels, 2, seed=seed) != chosen for seed in range(1, 5))


def test_the_recipe_lengthens_with_labels_within_its_bounds() -> None:
    recipe = few_labels.Recipe(steps=300, least_steps=60, epochs=40.0, batch_size=64)
    assert [recipe.length(pairs) for pairs in (15, 150, 750, 3000)] == [60, 94, 300, 300]


@pytest.mark.parametrize("solver", ["L-BFGS", "batches"], indirect=True)
def test_the_linear_probes_boundary_lies_where_scikit_learn_has_it(solver: str) -> None:
    labels = torch.tensor([0] * 12 + [1] * 4)
    train = torch.tensor([-1.0] * 12 + [1.0] * 3 + [3.0])[:, None]
    queries = torch.linspace(-1, 3, 401)[:, None]
    scale = lambda rows: ((rows - train.mean()) / train.std(unbiased=False)).numpy()  # noqa: E731
    theirs = LogisticRegression(C=1 / (0.2 * len(train)), tol=1e-8).fit(scale(train), labels.numpy())
    ours = probe.linear_probe(train, labels, queries, 2, l2=0.2)
    # two vectors of weights, each held back, are one of half the penalty
    halved = LogisticRegression(C=2 / (0.2 * len(train)), tol=1e-8).fit(scale(train), labels.numpy())
    assert abs(int(ours.sum()) - int(halved.predict(scale(queries)).sum())) <= 1
    assert abs(int(ours.sum()) - int(theirs.predict(scale(queries)).sum())) > 3


def test_the_nearest_rows_come_nearest_first() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.1]])
    assert retrieval.nearest(torch.tensor([[0.1, 1.0]]), gallery, 3).tolist() == [[1, 2, 0]]


class Heard(Encoder):
    """Notes what it is given in training, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.weight, self.batches = Spec(3, (), 1), nn.Parameter(torch.ones(1)), list[tuple[bool, Tensor]]()

    def forward(self, batch: Tensor, leave: Leave = stay) -> Features:
        """The mean colours, of which the first stands for a logit."""
        self.batches.append((self.training, batch))
        return Features(batch.mean((2, 3)), (), batch.mean((2, 3))[:, :1] * self.weight)


def tuned(signals: list[Tensor], targets: Tensor, size: int, **options: float) -> tuple[Heard, list[Tensor]]:
    """An encoder that was trained on these, and the targets that its logits met."""
    encoder, met = Heard().eval(), list[Tensor]()

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        met.append(wanted)
        return (logits[:, 0] - wanted).square().mean()

    plain = MODALITIES.get("rgb")(size=4, jitter=0.0, grey=0.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    few_labels.train_on(encoder, plain, signals, targets, few_labels.Recipe(6, 6, 1.0, size), loss=loss,
                        crop=Crop(**options), seed=1)  # fmt: skip
    return encoder, met


def test_each_of_few_labelled_pairs_is_trained_with_its_own_target() -> None:
    signals = [torch.full((3, 8, 8), number / 10) for number in range(7)]
    encoder, met = tuned(signals, torch.arange(7) / 10, 3)
    assert len(met) == 6 and len({tuple(wanted.tolist()) for wanted in met}) > 1
    for (training, batch), wanted in zip(encoder.batches, met, strict=True):
        assert training
        torch.testing.assert_close(batch.mean((1, 2, 3)), wanted)
    assert not encoder.training


def test_few_labelled_pairs_are_seen_through_other_windows_at_every_step() -> None:
    encoder, _ = tuned([torch.rand(3, 8, 8, generator=generator("signal"))], torch.zeros(1), 1, scale=(0.2, 0.6))
    assert len({batch.sum().item() for _, batch in encoder.batches}) == 6
