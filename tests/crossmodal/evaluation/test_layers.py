"""Probes of stages against the probe of pooled maps, and stages that are not there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from embedded import JUDGE, LEARN, labelled

from crossmodal import ENCODERS
from crossmodal.data.reader import open_view, read_pair
from crossmodal.data.shards import Shards
from crossmodal.encoders import Features
from crossmodal.evaluation import Network, Pairs, Subject
from crossmodal.evaluation.layers import Layers
from crossmodal.metrics.accuracy import accuracy
from crossmodal.metrics.probe import linear_probe


def test_a_stage_is_probed_on_its_pooled_map(synthetic: Path) -> None:
    pairs = Pairs(Shards.open(synthetic / "train"), Shards.open(synthetic / "test"))
    view = open_view(pairs.test, "rgb", size=32)
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")((3, 32, 32), 0, width=4, stages=3).eval()
    nothing = Features(torch.zeros(1, 1), (), None)
    found = Layers((0, 2, 5), pool=2).measure(Network(encoder, view, nothing, nothing), pairs)
    assert found.keys() == {"layer.0", "layer.2"}  # it has three stages
    maps = []
    for shards in (pairs.train, pairs.test):
        rows = [read_pair(shards, {"v": view}, index).adapted["v"] for index in range(len(shards))]
        with torch.inference_mode():
            maps.append(encoder(view.modality.normalise(torch.cat(rows))).maps)
    for stage in (0, 2):
        train, test = (F.adaptive_avg_pool2d(each[stage], 2).flatten(1) for each in maps)
        answer = linear_probe(train, pairs.labels[0], test, len(pairs.classes))
        assert found[f"layer.{stage}"] == pytest.approx(accuracy(answer, pairs.labels[1]), abs=0.03)


def test_stages_that_the_students_lack_are_refused_and_maps_smaller_than_the_pool_noted(synthetic: Path) -> None:
    encoder = ENCODERS.get("convnet")((3, 32, 32), 0, width=4, stages=3)
    view = open_view(Shards.open(synthetic / "test"), "rgb", size=32)
    pairs = replace(labelled(), subjects={"student": Subject(view, encoder.spec)})
    vars(pairs)["labels"] = LEARN, JUDGE
    with pytest.raises(ValueError, match="maps must be stages of the students from 0 to 2, got 3"):
        Layers().chance(pairs)
    assert Layers((0, 2)).chance(pairs) == {"layer.0": 2 / 3, "layer.2": 2 / 3}
    assert [*Layers((0, 2), pool=3).notes(pairs)] == ["pool is 3, more than a side of the student's maps 2"]


@pytest.mark.parametrize(
    ("options", "words"), [({"maps": (1, 1)}, "different stages from 0"), ({"pool": 0}, "at least 1")]
)
def test_options_of_layers_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Layers(**options)
