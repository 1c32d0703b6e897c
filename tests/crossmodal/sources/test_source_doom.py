"""The game as a source: levels apart, classes in turn, views of the same moment, the same on every run."""

import ctypes.util
import importlib.util
import io
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("vizdoom", reason="the source doom needs the package vizdoom")

from crossmodal.data.writer import KEY
from crossmodal.sources import Pair, SourceError, doom
from crossmodal.sources.doom import LEVELS, Doom
from modalities.audio import Audio
from modalities.depth import Depth
from modalities.rgb import Rgb

try:
    doom._openal()
except SourceError as error:
    pytest.skip(str(error), allow_module_level=True)

SILENT = ("rgb", "depth")
CLASSES = ["wall", "floor", "ceiling", "sky", "object", "creature"]


@pytest.fixture(scope="module")
def parts() -> dict[str, list[Pair]]:
    source = Doom(train_pairs=30, validation_pairs=15, test_pairs=15)
    return {split: list(source.pairs(split)) for split in source.splits()}


@pytest.fixture(scope="module")
def pairs(parts: dict[str, list[Pair]]) -> list[Pair]:
    return [pair for part in parts.values() for pair in part]


def labels_of(pair: Pair) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(pair.members["labels.png"])))


def shows(pair: Pair, name: str) -> np.ndarray:
    return labels_of(pair) == CLASSES.index(name)


def below_eye_m(pair: Pair) -> np.ndarray:
    """How far below the camera each pixel's surface lies, from depth alone; the engine's picture is 90 degrees wide."""
    _, top, _, bottom = pair.facts["crop"]  # type: ignore[misc]
    rows = top + (np.arange(64)[:, None] + 0.5) * (bottom - top) / 64
    return (rows - 120) / 160 * depth_of(pair)


def depth_of(pair: Pair) -> np.ndarray:
    return Depth(scale_m=0.001).decode(pair.members["depth.png"])[0].numpy()


def test_parts_are_of_different_levels(parts: dict[str, list[Pair]]) -> None:
    levels = [level for part in LEVELS.values() for level in part]
    assert len(set(levels)) == len(levels) == 19 + 9 + 12
    for part, pairs in parts.items():
        assert {pair.group for pair in pairs} <= set(LEVELS[part]), part


def test_the_test_part_is_of_another_game_and_the_others_are_not() -> None:
    source = Doom()
    wads = {part: {Path(session.levels_wad).name for session in source._sessions(part)} for part in source.splits()}
    assert wads == {"train": {"freedoom2.wad"}, "validation": {"freedoom2.wad"}, "test": {"freedoom1.wad"}}
    assert {session.level for session in source._sessions("test")} == set(LEVELS["test"])  # 900 pairs reach them all


def test_classes_come_in_turn(parts: dict[str, list[Pair]]) -> None:
    assert [pair.label for pair in parts["train"]] == [*range(15), *range(15)]
    assert [pair.label for pair in parts["test"]] == [*range(15)]
    assert len(set(Doom().classes())) == 15


def test_keys_are_legal_and_number_the_pairs(parts: dict[str, list[Pair]]) -> None:
    assert all(KEY.fullmatch(pair.key) for pair in parts["train"])
    assert [pair.key for pair in parts["test"]] == [f"test_{number:06d}" for number in range(15)]


def test_every_view_has_the_size_it_says(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert set(pair.members) == {"rgb.jpg", "depth.png", "audio.flac", "labels.png"}
        assert Rgb().decode(pair.members["rgb.jpg"]).shape == (3, 64, 64)
        assert depth_of(pair).shape == labels_of(pair).shape == (64, 64)
        assert Audio(rate_hz=11025, channels=2).decode(pair.members["audio.flac"]).shape == (2, 11025)


def test_depth_on_the_creature_is_its_distance(pairs: list[Pair]) -> None:
    # 0.1147 m is half a step of the 8-bit buffer; the engine's distance comes from object positions, not from depth
    for pair in pairs:
        assert abs(np.median(depth_of(pair)[shows(pair, "creature")]) - float(str(pair.facts["distance_m"]))) < 0.125, (
            pair.key
        )


def test_the_creature_is_nearer_than_what_is_around(pairs: list[Pair]) -> None:
    nearer = []
    for pair in pairs:
        depth, mask = depth_of(pair), shows(pair, "creature")
        behind = depth[~mask & (depth > 0)]  # sky has no reading
        nearer.append(not behind.size or np.median(depth[mask]) < np.median(behind))
    assert np.mean(nearer) > 0.7  # floors and posts before it are nearer still


def test_the_mask_is_of_the_picture(pairs: list[Pair]) -> None:
    # a mask of another moment or place would cut the picture anywhere: its edge would show no more change than the rest
    contrasts = []
    for pair in pairs:
        change = Rgb().decode(pair.members["rgb.jpg"]).mean(0).diff(dim=1).abs().numpy()
        edge = np.diff(shows(pair, "creature").astype(int), axis=1) != 0
        contrasts.append(change[edge].mean() / change.mean())
    assert np.median(contrasts) > 1.3


def test_floors_and_ceilings_are_level_and_walls_are_not(pairs: list[Pair]) -> None:
    spread: dict[str, list[float]] = {"wall": [], "floor": [], "ceiling": []}
    for pair in pairs:
        for name, values in spread.items():
            heights = below_eye_m(pair)[shows(pair, name) & (depth_of(pair) > 0)]
            if len(heights) > 200:
                values.append(float(np.median(np.abs(heights - np.median(heights)))))
                assert (heights > 0).all() == (name == "floor") or name == "wall", pair.key
    assert min(map(len, spread.values())) >= 5
    median = {name: float(np.median(values)) for name, values in spread.items()}
    assert median["floor"] < 0.1 and median["ceiling"] < 0.1 < median["wall"]


def test_the_sky_has_no_reading_and_little_else_has_none(pairs: list[Pair]) -> None:
    sky = np.stack([shows(pair, "sky") for pair in pairs])
    without = np.stack([depth_of(pair) == 0 for pair in pairs])
    assert sky.mean() > 0.02 and without[sky].all()
    assert without[~sky].mean() < 0.01  # a floor may be too near


def test_every_class_occurs(pairs: list[Pair]) -> None:
    counts = np.bincount(np.concatenate([labels_of(pair).ravel() for pair in pairs]))
    assert len(counts) == len(CLASSES) and (counts > 100).all()


def test_creatures_can_have_a_class_for_each_kind(parts: dict[str, list[Pair]]) -> None:
    source = Doom(train_pairs=15, creature_labels="kinds")
    assert source.fields()["labels"].classes == (*CLASSES[:5], *source.classes())
    for pair, other in zip(source.pairs("train"), parts["train"], strict=False):
        assert (np.unique(labels_of(pair)[shows(other, "creature")]) == 5 + pair.label).all()
        assert (labels_of(pair)[~shows(other, "creature")] == labels_of(other)[~shows(other, "creature")]).all()


def test_every_creature_is_heard(pairs: list[Pair]) -> None:
    audio = Audio(rate_hz=11025, channels=2)
    assert all(audio.decode(pair.members["audio.flac"]).square().mean().sqrt() > 0.003 for pair in pairs)


def test_sound_comes_from_where_the_creature_is() -> None:
    audio = Audio(rate_hz=11025, channels=2)
    agreed: Counter[bool] = Counter()
    for pair in Doom(views=("audio",), train_pairs=30, seed=1).pairs("train"):
        left, right = audio.decode(pair.members["audio.flac"]).square().mean(1).tolist()
        bearing = float(str(pair.facts["bearing_rad"]))
        if abs(bearing) > 0.2:
            agreed[(right > left) == (bearing > 0)] += 1
    assert agreed[True] > 4 * agreed[False]


def test_pairs_do_not_depend_on_the_number_of_games(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doom, "_PAIRS_PER_RUN", 3)
    one, two = (list(Doom(train_pairs=8, processes=processes).pairs("train")) for processes in (1, 2))
    assert one == two
    assert len({pair.group for pair in one}) == 3


def test_more_pairs_begin_with_the_same(parts: dict[str, list[Pair]]) -> None:
    assert list(Doom(train_pairs=4).pairs("train")) == parts["train"][:4]


def test_another_seed_gives_other_pairs(parts: dict[str, list[Pair]]) -> None:
    (pair,) = Doom(train_pairs=1, seed=1).pairs("train")
    assert pair.members != parts["train"][0].members


def test_digest_tells_options_apart_but_not_the_number_of_games() -> None:
    assert Doom().digest() == Doom(processes=1).digest()
    assert Doom().digest() != Doom(seed=1).digest()


def test_nothing_is_left_behind_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is read from TMPDIR once
    assert len(list(Doom(train_pairs=2).pairs("train"))) == 2
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_no_more_games_are_started_when_the_caller_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []
    run_engine = doom._run_engine

    def counted(*arguments: Any) -> dict[str, np.ndarray]:
        played.append(arguments[0].level)
        return run_engine(*arguments)

    monkeypatch.setattr(doom, "_run_engine", counted)
    monkeypatch.setattr(doom, "_PAIRS_PER_RUN", 1)
    assert len(list(islice(Doom(views=SILENT, train_pairs=200).pairs("train"), 2))) == 2
    assert len(played) < 20


def test_the_engine_writes_nothing_into_the_picture(tmp_path: Path) -> None:
    """Left to itself it says in orange letters that a secret was found, in a quarter of the pictures; see MAP15's."""
    session = Doom()._sessions("validation")[4]
    first = replace(session, creatures=session.creatures[:5])
    rgb = doom._run_engine(first, tmp_path, doom._environment(tmp_path, with_sound=True))["rgb"][4]
    red, green, blue = np.moveaxis(rgb.astype(int), -1, 0)
    assert ((red > 190) & (green > 100) & (green < 200) & (blue < 60)).sum() == 0  # of letters there were 16 pixels


def test_depth_has_no_reading_where_the_engine_has_none() -> None:
    depth_m = doom._depth_m(np.array([[0, 127, 255, 100]], dtype=np.uint8))
    torch.testing.assert_close(depth_m, torch.tensor([[[0.0, 0.0, 0.0, 22.94 + 0.1645]]]))


def test_only_the_views_asked_for_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doom, "_OPENAL_PACKAGES", {})
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)  # pictures need no sound library
    source = Doom(views=SILENT, train_pairs=1, size=32)
    (pair,) = source.pairs("train")
    assert set(source.fields()) == {"rgb", "depth"}
    assert set(pair.members) == {"rgb.jpg", "depth.png"}
    assert Rgb().decode(pair.members["rgb.jpg"]).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ("rgb", "smell")}, "views must be among rgb, depth, audio, labels, got smell"),
        ({"views": ("labels",)}, "views must name at least one of rgb, depth and audio"),
        ({"views": ("rgb", "mask")}, "views: mask is now labels; its class creature is the mask"),
        ({"train_pairs": 0}, "train_pairs must be above 0, got 0"),
        ({"validation_pairs": 0}, "validation_pairs must be above 0, got 0"),
        ({"test_pairs": -1}, "test_pairs must be above 0, got -1"),
        ({"size": 500}, "size must be from 8 to 240 pixels, got 500"),
        ({"rate_hz": 16000}, r"rate_hz must be one of .*, got 16000"),
        ({"sound_s": 0.0}, "sound_s must be from 0.1 to 3 seconds, got 0.0"),
        ({"near_m": 9.0}, "near_m and far_m must satisfy 0.5 <= near_m < far_m <= 25, got 9.0 and 8.0"),
        ({"crop": (2.0, 1.0)}, r"crop must be from 1 to 4, low to high, got \(2.0, 1.0\)"),
        ({"seed": -1}, "seed must be from 0"),
        ({"processes": 0}, "processes must be above 0, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Doom(**options)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(SourceError, match="split 'val' is not known"):
        next(Doom().pairs("val"))


def test_without_the_engine_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"needs the package vizdoom.*pip install 'crossmodal-transfer\[doom\]'"):
        next(Doom().pairs("train"))


def test_without_openal_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doom, "_OPENAL_PACKAGES", {})
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SourceError, match=r"needs the library OpenAL for sound.*views without audio"):
        next(Doom().pairs("train"))


def test_a_run_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEVELS, "train", ("MAP99",))
    with pytest.raises(SourceError, match=r"the game failed in MAP99: .*there is no level 'MAP99'"):
        next(Doom().pairs("train"))
