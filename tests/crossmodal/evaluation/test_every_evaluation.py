"""What every evaluation promises: declared, finite, order-free metrics that are near chance without information."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal import EVALUATIONS
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.encoders import Encoder, Features, Leave, Spec, stay
from crossmodal.evaluation import Evaluation, Metric, Network, Pairs, Subject
from crossmodal.sources import Pair
from modalities import MODALITIES
from modalities.common.random import generator

SIZES = {"train": 160, "test": 80}
CLASSES, DIM = 4, 32
DENSE = {"pictures": (20,), "draws": 2, "steps": 40, "lr": 0.05, "fine_tuned": (20,), "fine_tuned_steps": 40,
         "fine_tuned_lr": 0.05, "fine_tuned_batch_size": 4}  # fmt: skip
OPTIONS = {  # by entry, of those that have required options or take long; a mirrored slope has another colour
    "regression": {"fact": "position", "columns": (0, 1)},
    "segmentation": DENSE,
    "depth_regression": DENSE,
    "normals": DENSE | {"focal": 1.0, "window": 3, "flip": 0.0},
    "layers": {"maps": (0,), "pool": 2},
}
SIDE, BLOCKS, KINDS = 16, 4, 3  # pixels of a picture and surfaces in it to a side, and kinds of these
FIELDS = {"rgb": MODALITIES.get("rgb")(), "depth": MODALITIES.get("depth")(),
          "labels": MODALITIES.get("labels")(classes=("left", "front", "right"))}  # fmt: skip
VIEW = {"size": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3}
SPEC = Spec(DIM, ((KINDS, BLOCKS, BLOCKS),), 0)


def build(name: str) -> Evaluation:
    return EVALUATIONS.get(name)(**OPTIONS.get(name, {}))


def draw(*address: object, rows: int, dim: int = DIM) -> Tensor:
    return torch.randn(rows, dim, generator=generator("evaluations", *map(str, address)))


def position_of(index: int) -> list[float]:
    return [math.cos(index), math.sin(index)]


def pairs_in(name: str) -> Iterator[Pair]:
    """Pairs with four classes in turn and a position on a circle; half of the surfaces tell the class of a pair.

    Each kind of surface has a colour, a distance and a slope from left to right.
    """
    for index in range(SIZES[name]):
        kinds = torch.randint(KINDS, (BLOCKS, BLOCKS), generator=generator("surfaces", name, index))
        if index % CLASSES < KINDS:
            kinds[: BLOCKS // 2] = index % CLASSES
        kinds = kinds.repeat_interleave(SIDE // BLOCKS, 0).repeat_interleave(SIDE // BLOCKS, 1)
        across = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
        near = torch.tensor([1.0, 0.6, 0.36])[kinds] * (1 + torch.tensor([-0.6, 0.0, 0.6])[kinds] * across)
        signals = {"rgb": F.one_hot(kinds, KINDS).movedim(-1, 0).float(), "depth": 1 / near[None],
                   "labels": kinds[None].float()}  # fmt: skip
        members = {f"{field}.{each.extensions[0]}": each.encode(signals[field]) for field, each in FIELDS.items()}
        yield Pair(f"{name}_{index:03d}", members, label=index % CLASSES, facts={"position": position_of(index)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs; `other` holds the test pairs in another order."""
    found = tmp_path_factory.mktemp("pairs")
    for name, count in SIZES.items():
        pairs = [*pairs_in(name)]
        for part, order in ((name, range(count)), (f"other_{name}", shuffle(count))):
            write_shards(iter([pairs[place] for place in order]), found / part, fields=FIELDS, classes=tuple("abcd"))
    return found


def shuffle(count: int) -> list[int]:
    return torch.randperm(count, generator=generator("order")).tolist()


class Scripted(Encoder):
    """Gives each test pair a fixed embedding plus noise that is new in every pass over the pairs.

    Maps are the picture in small, or noise if `blind`. There is no embedding of a part of the test pairs.
    """

    def __init__(self, rows: Tensor, order: Sequence[int], *, noise: float, blind: bool = False) -> None:
        super().__init__()
        self.rows, self.order, self.noise, self.passes, self.blind = rows, order, noise, 0, blind
        self.spec = SPEC

    def forward(self, batch: Tensor, leave: Leave = stay) -> Features:
        """The rows, once more with other noise."""
        maps = F.adaptive_avg_pool2d(batch, BLOCKS)
        self.passes += 1
        if self.blind:
            maps = draw("maps", self.passes, rows=len(batch), dim=maps[0].numel()).view_as(maps)
        if len(batch) != len(self.rows):
            return Features(torch.full((len(batch), DIM), torch.nan), (maps,), None)
        noise = self.noise * draw("pass", self.passes, rows=len(self.rows))
        return Features((self.rows + noise)[torch.tensor(self.order)], (maps,), None)


@dataclass(frozen=True)
class Case:
    """An embedding of both parts, without the order of the pairs."""

    train: Tensor
    test: Tensor
    theirs: Tensor  # the teacher's side of the test pairs
    logits: Tensor
    fixed: Tensor  # what every pass of the encoder over the test pairs has in common
    noise: float  # new in each pass
    blind: bool = False  # whether the maps are noise

    def network(self, folder: Path, train: Sequence[int], test: Sequence[int]) -> Network:
        """The network that embeds the pairs so, in these orders."""
        places, view = torch.tensor(test), open_view(Shards.open(folder / "test"), "rgb", **VIEW)
        learnt = Features(self.train[torch.tensor(train)], (), None)
        judged = Features(self.test[places], (), self.logits[places])
        space = (self.test[places], self.theirs[places])
        encoder = Scripted(self.fixed, test, noise=self.noise, blind=self.blind).eval()
        return Network(encoder, view, learnt, judged, [*"abcd"], {"map": space, "heads": space}, (learnt, judged))


def informed() -> Case:
    """Class, position and the pair itself can be read off; crops of a pair lie near one another."""
    centres, axes = draw("centres", rows=CLASSES), draw("axes", rows=2)
    parts = {}
    for name, count in SIZES.items():
        label = torch.arange(count) % CLASSES
        position = torch.tensor([position_of(index) for index in range(count)])
        parts[name] = centres[label] + 0.7 * position @ axes + 0.4 * draw("pair", name, rows=count)
    logits = torch.eye(CLASSES)[torch.arange(SIZES["test"]) % CLASSES]
    theirs = parts["test"] + 0.2 * draw("theirs", rows=80)
    return Case(parts["train"], parts["test"], theirs, logits, fixed=parts["test"], noise=0.1)


def uninformed() -> Case:
    """Noise in a cone; no two passes have anything in common but the cone."""
    cone = draw("cone", rows=1)
    train, test, theirs = (cone + draw(name, rows=count) for name, count in (*SIZES.items(), ("theirs", 80)))
    return Case(train, test, theirs, draw("logits", rows=80, dim=CLASSES), cone.expand(80, -1), noise=1.0, blind=True)


IN_ORDER = {name: [*range(count)] for name, count in SIZES.items()}


def pairs_of(folder: Path, prefix: str = "") -> Pairs:
    return opened(folder / f"{prefix}train", folder / f"{prefix}test", has_teacher=True)


def opened(train: Path, test: Path, *, has_teacher: bool = False) -> Pairs:
    parts = Shards.open(train), Shards.open(test)
    subject = Subject(open_view(parts[1], "rgb", **VIEW), SPEC)
    heads = ("heads",) if has_teacher else ()
    return Pairs(*parts, has_teacher=has_teacher, heads=heads, subjects={"student": subject})


def measure(name: str, folder: Path, case: Case) -> dict[str, float]:
    return build(name).measure(case.network(folder, **IN_ORDER), pairs_of(folder))


@pytest.fixture(params=EVALUATIONS.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def declared(name: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in build(name).metrics_in(("heads",))}


def test_there_are_evaluations() -> None:
    assert {"classification", "diagnostics", "regression", "retrieval", "segmentation"} <= {*EVALUATIONS.names()}


def test_what_is_measured_is_what_is_declared_and_finite(folder: Path, name: str) -> None:
    found = measure(name, folder, informed())
    assert found.keys() == declared(name).keys() and all(map(math.isfinite, found.values()))
    assert all(metric.heading for metric in declared(name).values())


def test_a_metric_is_measured_where_its_needs_are_provided_and_only_there(folder: Path, name: str) -> None:
    whole, pairs = informed().network(folder, **IN_ORDER), pairs_of(folder)
    for network in (
        replace(whole, spaces={}, teacher=None),
        replace(whole, spaces={"map": whole.spaces["map"]}),
        replace(whole, classes=[*"dcba"]),
        replace(whole, test=whole.test._replace(logits=None)),
        replace(whole, kind="teacher"),
    ):
        there = network.provides(pairs)
        expected = {metric.name for metric in declared(name).values() if there.issuperset(metric.needs)}
        fresh = Scripted(informed().test, IN_ORDER["test"], noise=0.1).eval()
        assert build(name).measure(replace(network, encoder=fresh), pairs).keys() == expected


def test_chance_is_given_of_declared_metrics_and_a_random_embedding_is_near_it(folder: Path, name: str) -> None:
    chance, found = build(name).chance(pairs_of(folder)), measure(name, folder, uninformed())
    assert chance.keys() <= declared(name).keys()
    for metric, expected in chance.items():
        assert math.isfinite(expected)
        # shares of 80 pairs; or errors, of which the neighbours' mean makes more than the mean of all
        allowed = 3.5 * math.sqrt(expected * (1 - expected) / 80) if declared(name)[metric].percent else 0.3 * expected
        assert abs(found[metric] - expected) <= allowed, metric


def test_a_better_embedding_scores_better(folder: Path, name: str) -> None:
    good, bad = (measure(name, folder, case) for case in (informed(), uninformed()))
    for metric, meta in declared(name).items():
        assert good[metric] > bad[metric] if meta.higher_is_better else good[metric] < bad[metric], metric


def test_the_order_of_the_pairs_does_not_matter(folder: Path, name: str) -> None:
    orders = {part: shuffle(count) for part, count in SIZES.items()}
    shuffled = build(name).measure(informed().network(folder, **orders), pairs_of(folder, "other_"))
    assert shuffled == pytest.approx(measure(name, folder, informed()), abs=1e-4)


def test_measuring_leaves_the_network_and_its_features_as_they_were(folder: Path, name: str) -> None:
    network = informed().network(folder, **IN_ORDER)
    before = [network.train.embedding.clone(), network.test.embedding.clone()]
    build(name).measure(network, pairs_of(folder))
    assert not network.encoder.training
    assert all(map(torch.equal, before, (network.train.embedding, network.test.embedding)))


def test_without_classes_and_teacher_what_needs_them_is_not_measured(folder: Path, name: str, tmp_path: Path) -> None:
    pairs = [replace(pair, label=-1) for pair in pairs_in("test")]
    write_shards(iter(pairs), tmp_path / "plain", fields=FIELDS, classes=())
    plain = opened(tmp_path / "plain", tmp_path / "plain")
    whole = informed().network(folder, **IN_ORDER)
    network = replace(whole, train=whole.test, classes=[], spaces={}, teacher=None)
    expected = {metric.name for metric in declared(name).values() if {*metric.needs} <= {"student"}}
    found = build(name).measure(network, plain)
    assert found.keys() == expected and all(map(math.isfinite, found.values()))
