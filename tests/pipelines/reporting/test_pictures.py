"""Pictures of pairs that lack something, and names that a drawing must not read as formulas."""

import base64
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from crossmodal import SOURCES
from crossmodal.data.extraction import Extract, batches_of, crop_batches
from crossmodal.data.manifest import ShardError
from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, open_view, sweep_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop
from crossmodal.data.writer import write_shards
from pipelines.__main__ import main
from pipelines.reporting.artefacts import Curve, Line
from pipelines.reporting.pictures import (
    CHANCE,
    SIDE,
    class_colours,
    colours_of,
    describe_confusion,
    draw_confusion,
    draw_curve,
    draw_curves,
    draw_dots,
    draw_map,
    draw_pairs,
    embed,
    embed_picture,
    shares_of,
)

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
    told = f"{folder} has 1 without rgb and 1 without depth, of 4 pairs; leave them out with take_complete"
    for skip in (False, True):
        with pytest.raises(ShardError, match=told):
            PairStream(shards, views, Plan(4, 1), crop=Crop(), last_step=1, skip_unreadable=skip)
    assert PairStream(shards, views, Plan(4, 1), crop=Crop(), last_step=1, masks=True)
    with pytest.raises(ShardError, match=told):
        next(sweep_parts(shards, views, batch_size=1))  # the first pair has all


def test_pairs_that_lack_something_give_records_without_crops(folder: Path) -> None:
    shards = Shards.open(folder)
    views = {name: open_view(shards, name, size=16) for name in ("rgb", "depth")}
    (crops,) = crop_batches(Extract(shards, views, Crop(windows=2), 0, batches_of(shards, 0, 4)))
    assert crops.problems == [None, "it has no depth.png", "it has no rgb.jpg", None]
    assert crops.incomplete == [False, True, True, False]
    assert crops.part is not None and crops.part.index.tolist() == [0, 0, 3, 3]


def test_a_sheet_is_drawn_of_pairs_that_lack_something(folder: Path) -> None:
    assert main(["shards", "--sheet", str(folder)]) == 0
    assert (folder / "sheet.png").is_file()


def test_a_sheet_replaces_a_link_and_spares_what_it_names(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, shards := tmp_path / "shards")
    (sheet := shards / "sheet.png").unlink(missing_ok=True)
    (precious := tmp_path / "precious").write_text("kept")
    sheet.symlink_to(precious)

    assert main(["shards", "--sheet", str(shards)]) == 0
    assert precious.read_text() == "kept"
    assert not sheet.is_symlink() and sheet.read_bytes().startswith(b"\x89PNG")


def test_a_folder_in_the_place_of_a_sheet_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, shards := tmp_path / "shards")
    (sheet := shards / "sheet.png").unlink(missing_ok=True)
    sheet.mkdir()

    assert main(["shards", "--sheet", str(shards)]) == 1
    assert f"{sheet} must be a file to write, but is a folder" in capsys.readouterr().err


def test_packing_replaces_links_and_spares_what_they_name(tmp_path: Path) -> None:
    source = SOURCES.get("synthetic")(train_pairs=2, test_pairs=1, size=16, modalities=("rgb", "depth"))
    (precious := tmp_path / "precious").write_text("kept")
    (folder := tmp_path / "shards").mkdir()
    for name in ("000000.tar", "manifest.json"):
        (folder / name).symlink_to(precious)

    write_shards(source.pairs("train"), folder, fields=source.fields(), classes=source.classes())

    assert precious.read_text() == "kept"
    assert len(Shards.open(folder)) == 2 and not (folder / "000000.tar").is_symlink()


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "\ud800", "a\x1b[2Jb", "\0"])
def test_names_that_cannot_be_drawn_are_drawn_as_far_as_they_can(folder: Path, name: str) -> None:
    shards = Shards.open(folder)
    shards = replace(shards, manifest=replace(shards.manifest, classes=[name] * len(shards.manifest.classes)))

    figure = draw_pairs(shards, {"rgb": open_view(shards, "rgb", size=16)}, [0])

    assert embed(figure, "").source.startswith("data:image/png")
    assert figure.axes[0].get_title() == "".join(sign if " " <= sign <= "~" else "\ufffd" for sign in name)


def test_a_dollar_in_a_name_is_a_dollar() -> None:
    lines = [Line(NAME, "", {"1": {"mean": 0.5, "std": None}})]
    for figure in (
        draw_curve(Curve(NAME, NAME, NAME, True, ["1"], {"1": 0.1}, lines), {NAME: "#000000"}),
        draw_dots({NAME: {NAME: 0.5}}, {NAME: "#000000"}),
        draw_map(torch.rand(4, 2), torch.zeros(4), [], [NAME, NAME]),
        draw_confusion([[1, 0], [0, 1]], [NAME, NAME]),
    ):
        assert embed(figure, "").source.startswith("data:image/png")


def test_a_curve_shows_points_where_there_are_some_and_the_chance_level() -> None:
    whole = {at: {"mean": mean, "std": 0.1} for at, mean in (("5", 0.2), ("all", 0.4))}
    lines = [Line("ours", "frozen", whole), Line("ours", "tuned", {"all": {"mean": 0.6, "std": None}})]
    curve = Curve("title", "accuracy", "pictures", True, ["5", "all"], {"5": 0.1, "all": None}, lines)
    (axes,) = draw_curve(curve, {"ours": "#123456"}).axes
    frozen, tuned = (container.lines[0] for container in axes.containers)
    (chance,) = (line for line in axes.lines if line.get_label() == "chance")
    assert [round(value) for value in frozen.get_ydata()] == [20, 40] and frozen.get_linestyle() == "--"
    assert [round(value) for value in tuned.get_ydata()] == [60] and tuned.get_linestyle() == "-"
    assert tuned.get_color() == frozen.get_color() == "#123456" and tuned.get_marker() != frozen.get_marker()
    assert [round(place) for place in tuned.get_xdata()] == [1]
    assert chance.get_ydata()[0] == 10 and chance.get_ydata()[1] != chance.get_ydata()[1]
    assert axes.get_ylabel() == "accuracy, %" and [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "all"]


def test_bars_of_a_curve_reach_to_the_ends_of_intervals_where_there_are_some() -> None:
    points = {"1": {"mean": 0.5, "std": 0.1, "interval": [0.2, 0.6]}, "5": {"mean": 0.5, "std": 0.1}}
    curve = Curve("title", "accuracy", "pictures", True, ["1", "5"], {"1": None}, [Line("ours", "", points)])
    (axes,) = draw_curve(curve, {"ours": "#123456"}).axes
    (bars,) = axes.containers[0].lines[2]
    ends = [[round(end) for end in segment[:, 1]] for segment in bars.get_segments()]
    assert ends == [[20, 60], [40, 60]]


def test_percentages_are_drawn_from_0_to_100_however_wide_their_intervals() -> None:
    points = {"1": {"mean": 0.5, "std": None, "interval": [-0.9, 1.9]}}
    for percent, inside in ((True, True), (False, False)):
        curve = Curve("title", "accuracy", "pictures", percent, ["1"], {"1": None}, [Line("ours", "", points)])
        low, high = draw_curve(curve, {"ours": "#123456"}).axes[0].get_ylim()
        assert bool(low >= 0) is inside and high <= 103


def test_every_label_has_a_dot_of_each_row_that_has_it() -> None:
    rows = {"ours": {"wall": 0.5, "floor": 0.25}, "teacher": {"floor": 1.0}}
    colours = colours_of([*rows])
    (axes,) = draw_dots(rows, colours).axes
    ours, teacher = (dots.get_offsets().tolist() for dots in axes.collections[:2])
    assert ours == [[0.5, 0], [0.25, 1]] and teacher == [[1.0, 1]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["wall", "floor"]
    assert to_hex(axes.collections[1].get_facecolor()[0]) == colours["teacher"] != colours["ours"]


COUNTS = [[6, 2, 0], [0, 0, 0], [1, 0, 3]]  # no pair is of the second class


def test_a_confusion_matrix_is_in_percent_of_the_true_class() -> None:
    shares = shares_of(COUNTS)
    assert shares[0].tolist() == [75, 25, 0] and shares[1].isnan().all() and shares[2].tolist() == [25, 0, 75]
    axes, bar = draw_confusion(COUNTS, ["a", "b", "c"]).axes
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "25", "0", "75"]
    assert axes.texts[1].get_position() == (1, 0) and (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "truth")
    assert bar.get_ylabel() == "% of the true class"


@pytest.mark.parametrize(("count", "numbers", "names"), [(20, 400, 20), (21, 0, 21), (41, 0, 0)])
def test_a_confusion_matrix_of_many_classes_has_no_numbers_and_of_very_many_no_names(
    count: int, numbers: int, names: int
) -> None:
    axes = draw_confusion(torch.ones(count, count).int().tolist(), [str(number) for number in range(count)]).axes[0]
    assert (len(axes.texts), len(axes.get_yticklabels())) == (numbers, names)


def test_a_confusion_is_told_by_balanced_accuracy_and_by_what_is_taken_for_what() -> None:
    told = describe_confusion(COUNTS, ["ball", "cube", "ring"])
    assert told == ("Right in 75.0 % of a class's pairs, on average over the classes. Most often taken for another: "
                    "ball as cube (25 %), ring as ball (25 %).")  # fmt: skip
    assert describe_confusion([[1, 0], [0, 2]], ["a", "b"]).endswith("on average over the classes.")


def test_pairs_of_a_class_have_its_colour_on_the_map_and_those_without_one_are_grey() -> None:
    figure = draw_map(torch.rand(6, 2), torch.tensor([1, -1, 0]), ["a", "b"], ["depth", "rgb"])
    first, second = class_colours(2)
    for dots in figure.axes[0].collections:
        assert [to_hex(colour) for colour in dots.get_facecolor()] == [second, CHANCE, first]
    assert len({*class_colours(20)}) == 20


def test_every_figure_of_a_training_has_a_chart() -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "found": 0.5}]
    charts = {name: figure.axes[0].lines[0].get_xydata().tolist() for name, figure in draw_curves(lines)}
    assert charts == {"loss": [[1, 2.0], [2, 1.0]], "found": [[2, 0.5]]}


@pytest.mark.parametrize(("sides", "shown"), [((240, 320), (SIDE * 3 // 4, SIDE)), ((24, 32), (24, 32))])
def test_pictures_are_embedded_small_and_keep_their_colours(sides: tuple[int, int], shown: tuple[int, int]) -> None:
    picture = torch.tensor([10, 200, 30], dtype=torch.uint8)[:, None, None].expand(3, *sides)
    head, _, code = embed_picture(picture).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(code)))
    assert head == "data:image/png;base64" and image.size == shown[::-1] and image.getpixel((5, 5)) == (10, 200, 30)
