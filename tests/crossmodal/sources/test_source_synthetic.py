"""Rendered scenes: addresses of pairs, shared members, and every refusal."""

from itertools import islice
from typing import Any

import pytest
import torch

from crossmodal.sources import SourceError
from crossmodal.sources.synthetic import Synthetic
from modalities import MODALITIES
from modalities.common.random import generator
from modalities.synthetic.scene import SHAPES, draw_scene


def test_a_pair_depends_on_seed_part_and_number_alone() -> None:
    few, many = Synthetic(train_pairs=3, test_pairs=0), Synthetic(train_pairs=9, test_pairs=2)
    assert list(few.pairs("train")) == list(islice(many.pairs("train"), 3))


def test_another_seed_or_part_gives_other_pairs() -> None:
    first = next(Synthetic().pairs("train")).members
    assert first != next(Synthetic(seed=1).pairs("train")).members
    assert first != next(Synthetic().pairs("test")).members


def test_members_are_what_the_sensors_say_of_one_scene() -> None:
    source = Synthetic(modalities=("rgb", "depth"), seed=5, size=32)
    pair = next(islice(source.pairs("test"), 3, None))
    scene = draw_scene(generator(5, "test", 3), size=32)
    depth = source.fields()["depth"]
    assert pair.label == scene.label
    assert pair.members["depth.png"] == depth.encode(depth.render(scene))
    assert set(pair.members) == {"rgb.jpg", "depth.png"}


def test_modalities_that_share_a_member_give_one() -> None:
    source = Synthetic(modalities=("luminance", "rgb", "chrominance"), train_pairs=1)
    (pair,) = source.pairs("train")
    assert list(pair.members) == ["rgb.jpg"]


def test_luminance_alone_stores_pictures_as_rgb_does() -> None:
    seen, grey = (Synthetic(modalities=(name,), train_pairs=1) for name in ("rgb", "luminance"))
    assert grey.fields() == seen.fields()
    assert list(grey.pairs("train")) == list(seen.pairs("train"))


def test_every_modality_can_be_asked_for() -> None:
    source = Synthetic(modalities=tuple(MODALITIES.names()), train_pairs=1)
    (pair,) = source.pairs("train")
    for name in MODALITIES.names():
        kind = MODALITIES.get(name)
        payload = next(payload for member, payload in pair.members.items() if member.split(".")[0] == kind.field)
        assert torch.isfinite(kind().decode(payload)).all()


def test_size_is_that_of_the_pictures() -> None:
    source = Synthetic(modalities=("depth",), train_pairs=1, size=24)
    (pair,) = source.pairs("train")
    assert source.fields()["depth"].decode(pair.members["depth.png"]).shape == (1, 24, 24)


def test_all_shapes_are_drawn() -> None:
    labels = {draw_scene(generator(0, "train", index)).label for index in range(60)}
    assert labels == set(range(len(SHAPES)))


def test_without_labels_there_are_no_classes() -> None:
    source = Synthetic(modalities=("depth",), train_pairs=2, labelled=False)
    assert source.classes() == ()
    assert [pair.label for pair in source.pairs("train")] == [-1, -1]


def test_no_test_pairs_are_no_part() -> None:
    assert Synthetic(test_pairs=0).splits() == ("train",)


def test_the_digest_follows_the_options() -> None:
    assert Synthetic().digest() == Synthetic().digest() != Synthetic(seed=1).digest()


def test_the_digest_of_square_pictures_is_that_of_earlier_versions() -> None:
    assert Synthetic().digest() == "cac37ad447e4fb4749bd70803fe34f45d158f9cf4f4d676f469d6c33c2253c88"


def test_pictures_need_not_be_square() -> None:
    source = Synthetic(train_pairs=1, height=24, width=32)
    (pair,) = source.pairs("train")
    assert source.fields()["rgb"].decode(pair.members["rgb.jpg"]).shape == (3, 24, 32)
    assert source.fields()["depth"].decode(pair.members["depth.png"]).shape == (1, 24, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ()}, "modalities must name at least one of .*rgb.*, got none"),
        ({"modalities": ("rgb", "dept")}, "modalities: 'dept' is not known; did you mean 'depth'?"),
        ({"train_pairs": 0}, "train_pairs must be above 0 and test_pairs at least 0, got 0 and 256"),
        ({"test_pairs": -1}, "train_pairs must be above 0 and test_pairs at least 0, got 512 and -1"),
        ({"size": 4}, "size must be from 8 to inf, got 4"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Synthetic(**options)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(SourceError, match=r"split 'tset' is not known; did you mean 'test'\? \(known: train, test\)"):
        next(Synthetic().pairs("tset"))
