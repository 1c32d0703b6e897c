"""Which pairs a classifier is trained on, and which judge it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossmodal import SOURCES
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from pipelines.building.labelled import open_labelled
from pipelines.config import ConfigError, FieldError
from pipelines.schemas.common import EncoderConfig, HeldOutConfig, StudentConfig, ViewConfig
from pipelines.schemas.supervise import Config, SuperviseTrainConfig


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 pairs, of which every third has a label, in 4 shards."""
    folder = tmp_path_factory.mktemp("few")
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=0, size=16, modalities=("depth",))
    pairs = (pair if number % 3 == 0 else replace(pair, label=-1) for number, pair in enumerate(source.pairs("train")))
    write_shards(pairs, folder, fields=source.fields(), classes=source.classes(), pairs_per_shard=25)
    return folder


def config(data: Path, **changes: Any) -> Config:
    return Config(
        str(data), {"depth": ViewConfig("depth")}, StudentConfig("depth", EncoderConfig("convnet")), **changes
    )


def keys(shards: Shards) -> set[str]:
    return {shards.locate(index)[1].key for index in range(len(shards))}


def labelled_keys(shards: Shards) -> set[str]:
    return {shards.locate(index)[1].key for index in range(len(shards)) if shards.facts(index)["label"] >= 0}


def test_unlabelled_pairs_are_left_out_and_counted(few: Path) -> None:
    parts = open_labelled(config(few), ["depth"], by_class=True)
    assert keys(parts.train) == labelled_keys(Shards.open(few)) and parts.labelled == 32
    assert parts.notes[0] == "trains on 32 labelled pairs of 8 classes, and does not use the other 64 of 96 pairs"
    assert sum(parts.train.manifest.labels.values()) == len(parts.train) == 32


def test_all_pairs_are_kept_where_the_config_asks_for_them(few: Path) -> None:
    parts = open_labelled(config(few, pairs="all"), ["depth"], by_class=True)
    assert keys(parts.train) == keys(Shards.open(few))
    assert parts.notes[0] == "trains on 32 labelled pairs of 8 classes and 64 without a label"


@pytest.mark.parametrize("pairs", ["labelled", "all"])
def test_validation_takes_labelled_pairs_alone_and_none_that_is_trained_on(few: Path, pairs: Any) -> None:
    parts = open_labelled(config(few, pairs=pairs, validation=HeldOutConfig(0.25)), ["depth"], by_class=True)
    assert parts.validation is not None and 6 <= len(parts.validation) <= 10
    whole = keys(Shards.open(few)) if pairs == "all" else labelled_keys(Shards.open(few))
    assert keys(parts.validation) <= labelled_keys(Shards.open(few))
    assert keys(parts.train) == whole - keys(parts.validation)
    assert f"holds {len(parts.validation)} labelled pairs out for validation" in parts.notes[0]


@pytest.mark.parametrize("pairs", ["labelled", "all"])
def test_pairs_without_the_view_are_neither_trained_on_nor_held_out(tmp_path: Path, pairs: Any) -> None:
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=0, size=16, modalities=("rgb", "depth"))
    whole = [
        replace(pair, members={"rgb.jpg": pair.members["rgb.jpg"]}) if number % 4 == 0 else pair
        for number, pair in enumerate(source.pairs("train"))
    ]
    write_shards(iter(whole), tmp_path, fields=source.fields(), classes=source.classes(), partial=True)
    parts = open_labelled(config(tmp_path, pairs=pairs, validation=HeldOutConfig(0.25)), ["depth"], by_class=True)
    assert parts.validation is not None
    there = {pair.key for pair in whole if "depth.png" in pair.members}
    assert keys(parts.train) | keys(parts.validation) == there and not keys(parts.train) & keys(parts.validation)


def test_a_number_of_labels_a_class_is_drawn_by_the_seed(few: Path) -> None:
    drawn = [open_labelled(config(few, labels=2, seed=seed), ["depth"], by_class=True).train for seed in (0, 0, 1)]
    there = Shards.open(few).manifest.labels
    assert drawn[0].manifest.labels == {name: min(count, 2) for name, count in there.items()}
    assert keys(drawn[0]) == keys(drawn[1]) != keys(drawn[2])


def test_pairs_that_all_have_a_label_are_opened_as_they_are(synthetic: Path) -> None:
    parts = open_labelled(config(synthetic / "train"), ["depth"], by_class=True)
    assert parts.train.places is None and parts.notes == () and parts.labelled == 96


def test_what_no_objective_reads_is_not_asked_for(few: Path) -> None:
    assert len(open_labelled(config(few), ["depth"], by_class=False).train) == 96
    for changes in ({"labels": 2}, {"validation": HeldOutConfig()}):
        with pytest.raises(ConfigError, match=rf"^{next(iter(changes))}: no objective reads the classes of pairs"):
            open_labelled(config(few, **changes), ["depth"], by_class=False)


def test_settings_that_contradict_each_other_are_refused(few: Path) -> None:
    with pytest.raises(FieldError, match=r"^train.freeze needs student.weights: a frozen trunk with random weights"):
        config(few, train=SuperviseTrainConfig(freeze="trunk"))
    with pytest.raises(FieldError, match=r"^pairs must be labelled with labels"):
        config(few, pairs="all", labels=2)
    with pytest.raises(ConfigError, match=r"^validation: a share of 0.01 holds out none of the 32 pairs"):
        open_labelled(config(few, validation=HeldOutConfig(0.01)), ["depth"], by_class=True)
