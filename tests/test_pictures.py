"""Pictures of pairs that lack something, and names that a drawing must not read as formulas."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossmodal import SOURCES
from crossmodal.extraction import Extract, batches_of, look_parts
from crossmodal.looks import Look
from crossmodal.packing import write_shards
from crossmodal.plan import Plan
from crossmodal.shards import ShardError, Shards
from crossmodal.streams import PairStream, open_view, sweep_parts
from pipelines.__main__ import main
from pipelines._pictures import draw_few_labels, draw_map, draw_pairs, embed_png

NAME = "$a_$"  # no formula


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs: the second without depth, the third without colour, each class a name with dollars."""
    found = tmp_path_factory.mktemp("pairs") / "train"
    source = SOURCES.get("synthetic")(train_pairs=4, test_pairs=1, size=16, modalities=("rgb", "depth"))
    pairs = [*source.pairs("train")]
    for number, lacking in ((1, "depth.png"), (2, "rgb.jpg")):
        members = {name: member for name, member in pairs[number].members.items() if name != lacking}
        pairs[number] = replace(pairs[number], members=members)
    write_shards(iter(pairs), found, fields=source.fields(), classes=tuple(NAME + one for one in source.classes()),
                 partial=True)  # fmt: skip
    return found


def test_what_a_pair_lacks_is_blank(folder: Path) -> None:
    shards = Shards.open(folder)
    views = {name: open_view(shards, name, size=16) for name in ("rgb", "depth")}
    axes = draw_pairs(shards, views, range(4)).axes
    blank = [(axes[4 * row + column].images[0].get_array() == 1).all() for row in range(4) for column in range(4)]
    assert blank == [False, False, True, False] * 2 + [False, True, False, False] * 2
    assert all(NAME in axes[column].get_title() for column in range(4))


def test_pairs_that_lack_something_are_refused_before_any_is_read(folder: Path) -> None:
    shards = Shards.open(folder)
    views = {name: open_view(shards, name, size=16) for name in ("rgb", "depth")}
    told = f"{folder} has 1 without rgb and 1 without depth, of 4 pairs; pack them with missing: drop"
    with pytest.raises(ValueError, match=f"on_error must be skip where pairs lack what is read, got stop: {told}"):
        PairStream(shards, views, Plan(4, 1), look=Look(), last_step=1)
    assert PairStream(shards, views, Plan(4, 1), look=Look(), last_step=1, skip_unreadable=True)
    assert PairStream(shards, views, Plan(4, 1), look=Look(), last_step=1, masks=True)
    with pytest.raises(ShardError, match=told):
        next(sweep_parts(shards, views, batch_size=1))  # the first pair has all
    with pytest.raises(ShardError, match=told):
        look_parts(Extract(shards, views, Look(windows=1), 0, batches_of(shards, 0, 1)))


def test_a_sheet_is_drawn_of_pairs_that_lack_something(folder: Path) -> None:
    assert main(["shards", "--sheet", str(folder)]) == 0
    assert (folder / "sheet.png").is_file()


def test_a_dollar_in_a_name_is_a_dollar() -> None:
    point = {"mean": 0.5, "std": None, "runs": [0.5]}
    for figure in (
        draw_few_labels({NAME: {"1": point}}, 0.1),
        draw_map(torch.rand(4, 2), torch.zeros(4), [], [NAME, NAME]),
    ):
        assert embed_png(figure).startswith("data:image/png")
