"""Segmentation on encoders whose maps are known, merged classes, and what is refused before anything is measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal.data.reader import open_view, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.data.writer import write_shards
from crossmodal.encoders import Encoder, Features, Leave, Spec, stay
from crossmodal.evaluation import Network, Pairs, Subject
from crossmodal.evaluation.common import maps as held
from crossmodal.evaluation.common.dense import usual_stages
from crossmodal.evaluation.common.maps import choose
from crossmodal.evaluation.common.pictures import main_components
from crossmodal.evaluation.segmentation import NYU13, Classes, Segmentation, merged
from crossmodal.metrics.segmentation import confusion, mean_iou
from crossmodal.sources import Pair
from modalities import MODALITIES
from modalities.common.random import generator

NAMES = ("red", "green", "blue")
SIDE, GRID = 16, 4
QUICK: dict[str, Any] = {"pictures": (6, None), "draws": 2, "steps": 60, "lr": 0.1, "fine_tuned": (), "maps": (0,)}


class Colours(Encoder):
    """Two maps: the picture in small, and its mean; a weight of 1 scales both."""

    def __init__(self, seen: int = 3) -> None:
        super().__init__()
        self.spec = Spec(1, ((3, GRID, GRID), (3, 1, 1)), 0)
        self.scale, self.seen = nn.Parameter(torch.ones(())), seen

    def forward(self, batch: Tensor, leave: Leave = stay) -> Features:
        """Only the first `seen` colours."""
        maps = F.adaptive_avg_pool2d(batch, GRID) * self.scale
        maps = maps * (torch.arange(3) < self.seen)[:, None, None]
        return Features(maps.mean((1, 2, 3))[:, None], (maps, maps.mean((2, 3), keepdim=True)), None)


def pairs_in(part: str, count: int, *, side: int = SIDE, unlike: int = 0) -> list[Pair]:
    """Pictures of 4 x 4 coloured squares; in the labels these are shifted by `unlike` pictures."""
    fields = fields_of()
    drawn = [torch.randint(3, (GRID, GRID), generator=generator("squares", part, index)) for index in range(count)]
    found = []
    for index, squares in enumerate(drawn):
        rgb, labels = (
            each.repeat_interleave(size // GRID, 0).repeat_interleave(size // GRID, 1)
            for each, size in ((squares, SIDE), (drawn[(index + unlike) % count], side))
        )
        if index == 0:
            labels = labels.clone()
            labels[0, 0] = -1
        members = {"rgb.png": MODALITIES.get("rgb")().encode(F.one_hot(rgb, 3).movedim(-1, 0).float())}
        members = {"rgb.jpg": members["rgb.png"], "labels.png": fields["labels"].encode(labels[None].float())}
        found.append(Pair(f"{part}_{index:02d}", members))
    return found


def fields_of(names: Sequence[str] = NAMES) -> dict[str, Any]:
    return {"rgb": MODALITIES.get("rgb")(), "labels": MODALITIES.get("labels")(classes=tuple(names))}


def pack(folder: Path, pairs: list[Pair], **options: Any) -> Path:
    write_shards(iter(pairs), folder, fields=options.pop("fields", fields_of()), classes=(), **options)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("squares")
    pack(found / "train", pairs_in("train", 24))
    pack(found / "test", pairs_in("test", 12))
    pack(found / "shuffled", pairs_in("train", 24, unlike=5))
    return found


def opened(train: Path, test: Path, *, sides: tuple[int, int] = (SIDE, SIDE), spec: Spec | None = None) -> Pairs:
    parts = Shards.open(train), Shards.open(test)
    view = open_view(parts[1], "rgb", height=sides[0], width=sides[1], mean=(0.0,) * 3, std=(1.0,) * 3)
    return Pairs(*parts, subjects={"student": Subject(view, spec or Colours().spec)})


def network(pairs: Pairs, encoder: Encoder | None = None, **options: Any) -> Network:
    nothing = Features(torch.zeros(1, 1), (), None)
    view = pairs.subjects["student"].view
    return Network((encoder or Colours()).eval(), view, nothing, nothing, **options)


def test_maps_that_name_the_class_reach_an_iou_of_1(folder: Path) -> None:
    pairs = opened(folder / "train", folder / "test")
    found = Segmentation(**QUICK, height=GRID, width=GRID).measure(network(pairs), pairs)
    assert found == {f"{name}.frozen@{count}": 1.0 for count in ("6", "all")
                     for name in ("miou", "pixel_accuracy", "class_accuracy")}  # fmt: skip


def test_shuffled_labels_give_chance_and_chance_is_the_most_frequent_class(folder: Path) -> None:
    pairs = opened(folder / "shuffled", folder / "test")
    asked = Segmentation(**QUICK | {"pictures": (None,)})
    found, chance = asked.measure(network(pairs), pairs), asked.chance(pairs)
    view = open_view(pairs.test, "labels", size=SIDE)
    truth = torch.stack([read_pair(pairs.test, {"t": view}, index).adapted["t"][0, 0] for index in range(12)]).long()
    constant = confusion(torch.full_like(truth, truth[truth >= 0].bincount().argmax().item()), truth, 3)
    assert chance["miou.frozen@all"] == pytest.approx(mean_iou(constant))
    assert chance["pixel_accuracy.frozen@all"] == pytest.approx(
        (truth[truth >= 0].bincount().max() / (truth >= 0).sum()).item()
    )
    assert chance["class_accuracy.frozen@all"] == pytest.approx(1 / 3)
    assert abs(found["pixel_accuracy.frozen@all"] - 1 / 3) < 0.1 and found["miou.frozen@all"] < 0.3


def test_metrics_do_not_depend_on_other_networks_or_global_random_numbers(folder: Path) -> None:
    pairs = opened(folder / "train", folder / "test")
    asked = Segmentation(
        **QUICK | {"decoder": "conv", "decoder_width": 4, "steps": 5, "fine_tuned": (6,)}, fine_tuned_steps=3
    )
    first = asked.measure(network(pairs), pairs)
    torch.manual_seed(1)
    asked.measure(network(pairs, Colours(1)), pairs)
    assert asked.measure(network(pairs), pairs) == first


def test_maps_that_do_not_fit_into_memory_are_recomputed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, asked = opened(folder / "train", folder / "test"), Segmentation(**QUICK | {"steps": 8})
    whole = asked.measure(network(pairs), pairs)
    monkeypatch.setattr(held, "HELD", 9 * (3 * GRID**2 + 4 * (2 * GRID) ** 2))  # nine pictures
    assert asked.measure(network(pairs), pairs) == pytest.approx(whole, abs=0.01)  # float16 is a little coarser
    reads: list[int] = []
    original = held.Maps._sweep
    monkeypatch.setattr(
        held.Maps,
        "_sweep",
        lambda self, indices, workers: reads.append(len(indices)) or original(self, indices, workers),
    )
    asked.measure(network(pairs), pairs)
    assert reads[0] == 9 and len(reads) > 1


def test_fine_tuning_changes_a_copy_and_only_networks_that_see_the_students_view(folder: Path) -> None:
    pairs = opened(folder / "train", folder / "test")
    asked = Segmentation(**QUICK | {"fine_tuned": (6,)}, fine_tuned_steps=30, fine_tuned_lr=0.1)
    encoder = Colours()
    encoder.scale.requires_grad_(False)  # as a loaded teacher's
    found = asked.measure(network(pairs, encoder), pairs)
    assert found["miou.fine-tuned@6"] > 0.6 and encoder.scale == 1 and not encoder.training
    assert not encoder.scale.requires_grad
    given = asked.measure(network(pairs, kind="teacher"), pairs)
    assert given.keys() == {name for name in found if "fine-tuned" not in name}


def test_choices_are_nested_and_follow_the_keys(folder: Path, tmp_path: Path) -> None:
    pack(tmp_path / "turned", pairs_in("train", 24)[::-1])
    one, other = Shards.open(folder / "train"), Shards.open(tmp_path / "turned")
    keys = lambda shards, chosen: [shards.locate(index)[1].key for index in chosen]  # noqa: E731
    small, large = (choose(one, range(24), count, 0) for count in (6, 12))
    assert small == large[:6] and len({*large}) == 12
    assert keys(one, small) == keys(other, choose(other, range(24), 6, 0))
    assert small != choose(one, range(24), 6, 1) and sorted(choose(one, range(24), None, 0)) == [*range(24)]


def test_pictures_and_ious_are_handed_over(folder: Path) -> None:
    pairs = opened(folder / "train", folder / "test")
    given = network(pairs)
    found = Segmentation(**QUICK, height=GRID, width=GRID).measure(given, pairs)
    context, pictures, values = given.artefacts.context, given.artefacts.pictures, given.artefacts.values
    assert [*context] == ["input", "truth"] and [*pictures] == ["frozen, 6 pictures", "frozen, all pictures"]
    shown = [*context.values(), *pictures.values()]
    assert all(rows.shape[:2] == (6, 3) and rows.dtype == torch.uint8 for rows in shown)
    (components,) = given.artefacts.components.values()
    assert components.shape == (6, 3, GRID, GRID)
    # where there is a label, the answer has the truth's colour, for all answers are right
    known = context["truth"].any(1, keepdim=True)
    assert torch.equal(context["truth"], pictures["frozen, all pictures"] * known)
    legend = {name: [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
              for name, colour in given.artefacts.legend.items()}  # fmt: skip
    assert [*legend] == ["no truth", *NAMES] and legend.pop("no truth") == [0, 0, 0]
    assert sorted(legend.values()) == context["truth"].movedim(1, -1).flatten(0, 2).unique(dim=0).tolist()
    assert values["mIoU by class, frozen, 6 pictures"] == dict.fromkeys(NAMES, 1.0) and found["miou.frozen@6"] == 1
    whole = torch.stack([read_pair(pairs.test, {"v": given.view}, index).adapted["v"][0] for index in (0, 11)])
    torch.testing.assert_close(context["input"][[0, 5]] / 255, whole, atol=0.01, rtol=0)


def test_maps_are_shown_by_their_principal_components() -> None:
    random = generator("colours")
    signal = torch.randn(4, 1, 6, 5, generator=random)
    # three channels share a signal, and a fourth is large and has nothing to do with them
    noise = torch.randn(4, 1, 6, 5, generator=random) * 100
    channels = torch.cat([signal, -signal, signal * 2, noise], 1)
    samples = [[each, torch.zeros(2, 3, 3)] for each in channels]
    found = main_components(samples)
    assert found.shape == (4, 3, 6, 5)
    correlation = torch.corrcoef(torch.stack([found[:, 0].flatten(), signal.flatten(), noise.flatten()]))[0]
    assert correlation[1].abs() > 0.99 and correlation[2].abs() < 0.2
    assert found[:, 0].std() > 1.5 * found[:, 1].std() > 100 * found[:, 2].abs().max()


def test_the_loss_is_cross_entropy_of_pixels_and_areas_count_their_classes() -> None:
    task = Classes(View(MODALITIES.get("labels")()), ["a", "b", "c"], (0, 1, -1, 2), ("", "", ""))
    stored = torch.randint(-1, 4, (2, 1, 4, 6), generator=generator("stored")).float()
    truth = task.prepare(stored)
    assert torch.equal(truth, torch.tensor([-1.0, 0.0, 1.0, -1.0, 2.0])[stored.long() + 1])
    answer = torch.randn(2, 3, 2, 3, generator=generator("logits"))
    target, weight = task.targets(truth)
    expected = F.cross_entropy(F.interpolate(answer, (4, 6)), truth[:, 0].long(), ignore_index=-1)
    torch.testing.assert_close(task.loss(F.interpolate(answer, (4, 6)), target, weight), expected)
    areas = (F.adaptive_avg_pool2d(each, (2, 3)) for each in (target, weight))
    torch.testing.assert_close(task.loss(answer, *areas), expected)
    assert task.loss(answer, torch.zeros(2, 3, 2, 3), torch.zeros(2, 1, 2, 3)) == 0


def test_stages_are_the_last_of_each_coarse_grid() -> None:
    sizes = ((8, 24, 32), (8, 12, 16), (16, 12, 16), (32, 6, 8))
    assert usual_stages(Spec(1, sizes, 0), (3, 96, 128)) == [2, 3]
    assert usual_stages(Spec(1, sizes, 0), (3, 24, 32)) == [3]
    assert usual_stages(Spec(1, ((8, 14, 14),) * 3, 0), (3, 224, 224)) == [2]  # a ViT


@pytest.mark.parametrize(
    ("merge", "ignore", "names", "table"),
    [
        (None, (), ["red", "green", "blue"], [0, 1, 2]),
        (None, ("green",), ["red", "blue"], [0, -1, 1]),
        ({"warm": ("red", "green")}, (), ["warm", "blue"], [0, 0, 1]),
        ({"red": ("red", "blue")}, (), ["red", "green"], [0, 1, 0]),
    ],
)
def test_classes_are_merged_and_ignored(
    merge: Any, ignore: tuple[str, ...], names: list[str], table: list[int]
) -> None:
    assert merged(NAMES, merge, ignore) == (names, table)


def test_the_13_classes_of_nyu() -> None:
    stored = [name for names in NYU13.values() for name in names if name != "refridgerator"] + [
        "lamp",
        "otherprop",
        "bag",
    ]
    stored[stored.index("night stand")] = "night_stand"  # spelt otherwise
    names, table = merged(stored, "nyu13", ())
    assert names == [*NYU13, "objects"] and len(names) == 13
    by_name = dict(zip(stored, table, strict=True))
    assert (by_name["door"], by_name["night_stand"], by_name["lamp"], by_name["otherprop"]) == (0, 11, 12, -1)


@pytest.mark.parametrize(
    ("merge", "ignore", "words"),
    [
        ({"warm": ("red", "gren")}, (), "merge: 'gren' is not a class of the labels; did you mean 'green'"),
        ({"warm": ("red",)}, ("red",), "ignore: class 'red' is named twice"),
        ({"a": ("red",), "b": ("red", "blue")}, (), "merge: class 'red' is named twice"),
        ({"green": ("red", "blue")}, (), "merge: 'green' is also a class of the labels"),
        ({"all": NAMES}, (), "at least two classes must be left to judge, got all"),
        (None, ("pink",), "ignore: 'pink' is not a class of the labels"),
        ("nyu13", (), "merge: nyu13 needs the class 'bed', or a part of it, but the labels have red, green, blue"),
    ],
)
def test_merged_classes_that_do_not_fit_are_refused(merge: Any, ignore: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        merged(NAMES, merge, ignore)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"merge": "nyu14"}, "merge must be a mapping or one of nyu13, got 'nyu14'"),
        ({"height": 8}, "give both height and width, or none, got 8 and None"),
        ({"pictures": ()}, "pictures must name at least one number of pictures"),
        ({"pictures": (5, 5)}, r"pictures must be different numbers of at least 1, or null for all, got \[5, 5\]"),
        ({"fine_tuned": (0,)}, r"fine_tuned must be different numbers of at least 1, or null for all, got \[0\]"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
        ({"maps": ()}, r"maps must be one or more different stages from 0, got \[\]"),
        ({"teacher_maps": (1, 1)}, r"teacher_maps must be one or more different stages from 0, got \[1, 1\]"),
        ({"flip": 2.0}, "flip must be from 0 to 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Segmentation(**options)


def test_pairs_that_do_not_fit_are_refused_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    train, test = folder / "train", folder / "test"
    plain = [Pair(pair.key, {"rgb.jpg": pair.members["rgb.jpg"]}) for pair in pairs_in("test", 3)]
    pack(tmp_path / "plain", plain, fields={"rgb": fields_of()["rgb"]})
    pack(tmp_path / "other", pairs_in("test", 3), fields=fields_of(("red", "blue", "green")))
    vit = Spec(1, (), 0)
    quick = {**QUICK, "maps": None}
    for options, pairs, words in (
        ({}, opened(tmp_path / "plain", test), r"modality 'labels' reads 'labels', but .*plain has rgb"),
        ({}, opened(train, tmp_path / "plain"), r"modality 'labels' reads 'labels', but .*plain has rgb"),
        ({}, opened(train, tmp_path / "other"), r"train and .*other must have the same classes in labels, got red, gr"),
        (
            {"height": 8, "width": 16},
            opened(train, test),
            r"the view of the students \(16 x 16, fit: crop\) and the labels",
        ),
        ({"maps": (2,)}, opened(train, test), "maps must be stages of the students from 0 to 1, got 2"),
        ({}, opened(train, test, spec=vit), "the students must give maps to be evaluated place by place"),
        ({"merge": {"warm": ("red", "pink")}}, opened(train, test), "merge: 'pink' is not a class of the labels"),
        ({"pictures": (25,)}, opened(train, test), "pictures asks for 25 labelled training pairs, but .*train has 24"),
        (
            {"fine_tuned": (30,)},
            opened(train, test),
            "fine_tuned asks for 30 labelled training pairs, but .*train has 24",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            Segmentation(**{**quick, **options}).chance(pairs)


def test_the_teachers_view_must_show_the_same_places_and_its_stages_are_its_own(folder: Path) -> None:
    pairs = opened(folder / "train", folder / "test")
    view = open_view(pairs.test, "rgb", height=8, width=16)
    with pytest.raises(
        ValueError, match=r"the view of the teacher \(16 x 8, fit: crop\) and the labels \(16 x 16, fit"
    ):
        Segmentation(**QUICK).chance(
            replace(pairs, subjects={**pairs.subjects, "teacher": Subject(view, Colours().spec)})
        )
    known = {**pairs.subjects, "teacher": pairs.subjects["student"]}
    with pytest.raises(ValueError, match="teacher_maps must be stages of the teacher from 0 to 1, got 7"):
        Segmentation(**QUICK, teacher_maps=(7,)).chance(replace(pairs, subjects=known))


def test_pairs_without_labels_are_left_out_and_noted(folder: Path, tmp_path: Path) -> None:
    some = [pair if index % 2 else replace(pair, members={"rgb.jpg": pair.members["rgb.jpg"]})
            for index, pair in enumerate(pairs_in("train", 24))]  # fmt: skip
    pack(tmp_path / "some", some, partial=True)
    pairs = opened(tmp_path / "some", folder / "test")
    asked = Segmentation(**QUICK, height=GRID, width=GRID)
    assert len(asked.usable(pairs, pairs.train)) == 12
    assert [*asked.notes(pairs)] == [f"only 12 of the 24 pairs of {tmp_path / 'some'} have a truth for every place"]
    assert asked.measure(network(pairs), pairs)["miou.frozen@all"] == 1.0


def test_a_suffix_tells_two_evaluations_apart() -> None:
    one, other = ({metric.name for metric in Segmentation(suffix=suffix).metrics()} for suffix in ("", "13"))
    assert not one & other and "miou13.frozen@10" in other and "miou.fine-tuned@50" in one


def test_maps_of_two_channels_have_a_third_component_of_zeros() -> None:
    found = main_components([[torch.randn(2, 4, 5, generator=generator("two", index))] for index in range(3)])
    assert found.shape == (3, 3, 4, 5) and not found[:, 2].any() and found[:, :2].std() > 0.1
