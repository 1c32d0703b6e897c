"""`crossmodal init` on recordings and folders that the tests write."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.__main__ import main
from pipelines.config import load
from pipelines.reporting import sheet
from pipelines.schemas.shards import Config as ShardsConfig
from pipelines.schemas.transfer import Config as TransferConfig

RATE_HZ, SECONDS = 30, 24


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name, compress_level=0)


def walk(folder: Path, *, ahead_s: float = 0.0, seconds: float = SECONDS) -> Path:
    """A camera that moves over a textured scene by fits and starts; depth in 1/5000 m, by a clock of its own."""
    random = np.random.default_rng(0)
    scene = np.kron(random.integers(0, 255, (20, 150, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    relief = np.kron(random.integers(5000, 15000, (20, 150)), np.ones((4, 4))).astype(np.uint16)
    times = np.arange(0, seconds, 1 / RATE_HZ)
    speed = 8 * np.abs(np.sin(1.1 * times) + np.sin(2.7 * times + 1) + np.sin(4.3 * times + 2))
    places = np.cumsum(speed) / RATE_HZ
    lists: dict[str, list[str]] = {"rgb": [], "depth": []}
    for number, (time, place) in enumerate(zip(times, places, strict=True)):
        column = int(place) % 500
        write(folder, f"rgb/{number}.png", scene[:60, column : column + 80])
        write(folder, f"depth/{number}.png", relief[:60, column : column + 80])
        lists["rgb"].append(f"{1000 + time:.6f} rgb/{number}.png")
        lists["depth"].append(f"{1000 + time + ahead_s:.6f} depth/{number}.png")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walk(tmp_path_factory.mktemp("recordings") / "walk", ahead_s=0.060)


def test_a_recording_becomes_configs_that_pack_it(
    recorded: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(recorded)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"depth.txt +depth +png i;16 +80x60 +720 +30 Hz", printed)
    assert "Pair: rgb from rgb.txt and depth from depth.txt" in printed
    assert re.search(r"by motion depth is (59|60|61)\.\d ms ahead .*; corrected", printed)
    assert re.search(r"[12]\.\d+ m with --scale-m 0.0002  \(1/5000 m, as in TUM\)", printed)
    assert max(map(len, printed.replace(str(recorded), "walk").splitlines())) <= 120
    config = load(ShardsConfig, Path("walk.yaml"), [])
    members = config.source.options["members"]
    assert abs(members["depth"]["offset_ms"] - 60) < 1.5
    assert "scale_m" not in members["depth"]  # the unit is never guessed
    assert all(len(line) <= 120 for file in here.glob("*.yaml") for line in file.read_text().splitlines())
    assert "scale_m: 0.0002  (1/5000 m, as in TUM; then the median is" in Path("walk.yaml").read_text()
    assert main(["shards", "walk.yaml"]) == 1
    assert "members.depth.scale_m must be given" in capsys.readouterr().err
    text = Path("walk.yaml").read_text()
    Path("walk.yaml").write_text(text.replace("stream: depth.txt", "stream: depth.txt, scale_m: 0.0002"))
    assert main(["shards", "walk.yaml", "source.every_s=1.0"]) == 0
    printed = capsys.readouterr().out
    assert "have no depth" not in printed
    with Image.open("walk_sheet.png") as sheet:
        assert sheet.width > 300


def test_the_transfer_that_is_proposed_is_a_valid_one(recorded: Path, tmp_path: Path) -> None:
    assert main(["init", str(recorded), "--to", str(tmp_path), "--name", "try", "--scale-m", "0.0002"]) == 0
    config = load(TransferConfig, tmp_path / "try_transfer.yaml", [])
    assert config.student.view == "depth"
    sizes = [config.views[name].options for name in ("rgb", "depth")]
    assert sizes[0]["height"] / sizes[0]["width"] == sizes[1]["height"] / sizes[1]["width"]
    assert 0.8 < sizes[1]["min_m"] < 1.1  # distances are from 1 to 3 m
    assert 2.9 < sizes[1]["max_m"] < 3.5
    shards = yaml.safe_load((tmp_path / "try.yaml").read_text())
    assert config.data == shards["output"] + "/train"


def test_a_folder_of_paired_files_is_found_by_equal_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for room in ("hall", "yard"):
        for number in range(3):
            write(tmp_path / "mine", f"color/{room}/{number}.png", np.zeros((6, 8, 3), dtype=np.uint8))
            write(tmp_path / "mine", f"depth/{room}/{number}.png", np.full((6, 8), 1500, dtype=np.uint16))
            pose = tmp_path / "mine" / "pose" / room / f"{number}.txt"
            pose.parent.mkdir(parents=True, exist_ok=True)
            pose.write_text(" ".join(["1.0"] * 16))
    assert main(["init", str(tmp_path / "mine"), "--to", str(tmp_path), "--scale-m", "0.001"]) == 0
    source = yaml.safe_load((tmp_path / "mine.yaml").read_text())["source"]
    assert source["members"] == {
        "rgb": {"modality": "rgb", "files": "color/{group}/{key}.png"},
        "depth": {"modality": "depth", "files": "depth/{group}/{key}.png", "scale_m": 0.001},
    }
    assert source["facts"] == {"pose": "pose/{group}/{key}.txt"}
    assert "6 pairs" in capsys.readouterr().out
    assert main(["shards", str(tmp_path / "mine.yaml"), f"output={tmp_path}/pairs", "source.test_groups=[yard]",
                 "source.test_share=0"]) == 0  # fmt: skip


def test_names_with_a_word_for_the_sensor_are_found(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "mine", f"frame-{number}.color.png", np.zeros((6, 8, 3), dtype=np.uint8))
        write(tmp_path / "mine", f"frame-{number}_depth.png", np.full((6, 8), 1500, dtype=np.uint16))
    assert main(["init", str(tmp_path / "mine"), "--to", str(tmp_path), "--scale-m", "0.001"]) == 0
    members = yaml.safe_load((tmp_path / "mine.yaml").read_text())["source"]["members"]
    assert (members["rgb"]["files"], members["depth"]["files"]) == ("{key}.color.png", "{key}_depth.png")


def test_a_video_beside_paired_files_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(tmp_path / "mine", f"{number}.color.png", np.zeros((6, 8, 3), dtype=np.uint8))
        write(tmp_path / "mine", f"{number}.depth.png", np.full((6, 8), 1500, dtype=np.uint16))
    (tmp_path / "mine" / "clip.mp4").write_bytes(bytes(4) + b"ftypisom" + bytes(64))
    assert main(["init", str(tmp_path / "mine"), "--to", str(tmp_path), "--scale-m", "0.001"]) == 0
    assert "files of equal names are taken; left out: clip.mp4" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["source"]["name"] == "folder"


def test_the_sheet_shows_the_views_of_the_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    draw = sheet.draw_sheet

    def note(folder: Path, views: Any, **options: Any) -> Path:
        drawn.update(views)
        return draw(folder, views, **options)

    monkeypatch.setattr(sheet, "draw_sheet", note)
    walk(tmp_path / "walk", seconds=1)
    words = ["init", str(tmp_path / "walk"), "--to", str(tmp_path), "--scale-m", "0.0002"]
    assert main(words) == 0
    assert (tmp_path / "walk_sheet.png").is_file()
    views = yaml.safe_load((tmp_path / "walk_transfer.yaml").read_text())["views"]
    assert (views["rgb"]["height"], views["rgb"]["width"]) == (128, 160)
    for name, view in drawn.items():
        assert {key: view.options[key] for key in ("height", "width")}.items() <= views[name].items()
    assert drawn.keys() == views.keys() and drawn["rgb"].options["jitter"] == 0


def test_files_that_are_there_are_replaced_only_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(tmp_path / "walk", seconds=1)
    (tmp_path / "walk.yaml").write_text("mine")
    words = ["init", str(tmp_path / "walk"), "--to", str(tmp_path)]
    assert main(words) == 2
    assert "walk.yaml would be replaced; add --yes" in capsys.readouterr().err
    assert (tmp_path / "walk.yaml").read_text() == "mine"
    assert main([*words, "--yes"]) == 0
    assert (tmp_path / "walk.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["absent.bag"], 2, "init: there is no file or folder .*absent.bag"),
        (["."], 1, "is no recording, and no pictures in it have a partner.*3 x rgb/{key}.png .rgb."),
        ([".", "--stream", "rgb"], 2, "--stream must be MEMBER=NAME"),
        ([".", "--stream", "rgb=x"], 2, "is no recording, so --stream does not apply"),
        ([], 2, "init: the following arguments are required: PATH; see crossmodal init --help"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write(here, f"rgb/{number}.png", np.zeros((6, 8, 3), dtype=np.uint8))
    assert main(["init", *words]) == code
    assert re.search(message, capsys.readouterr().err)


def test_a_stream_that_is_not_there_is_refused(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(recorded), "--to", str(tmp_path), "--stream", "rgb=color.txt"]) == 1
    assert (
        "recording 'walk' has no frames in a stream 'color.txt'; it has depth.txt, rgb.txt" in capsys.readouterr().err
    )


def test_a_recording_of_two_seconds_is_packed_as_proposed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(here / "short", seconds=2)
    assert main(["init", "short", "--scale-m", "0.0002"]) == 0
    assert "the recording is too short, so no offset was measured" in capsys.readouterr().out
    assert main(["shards", "short.yaml"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"{split}: [1-9]\d* pairs", printed) for split in ("train", "test"))


def test_a_recording_of_one_frame_is_packed_without_a_test_part(here: Path) -> None:
    walk(here / "one", seconds=1 / RATE_HZ)
    assert main(["init", "one", "--scale-m", "0.0002"]) == 0
    assert main(["shards", "one.yaml"]) == 0
    assert not Path("runs/one/pairs/test").exists()


def test_what_no_recording_is_read_from_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "notes.txt").write_text("hello")
    assert main(["init", "notes.txt"]) == 1
    assert "notes.txt is no recording that can be read; a recording is a bag" in capsys.readouterr().err
    write(here, "all/hall/monday/rgb/0.png", np.zeros((6, 8, 3), dtype=np.uint8))
    (here / "all/hall/monday/rgb.txt").write_text("0.1 rgb/0.png\n")
    assert main(["init", "all"]) == 1
    assert "all holds folders of recordings, such as all/hall; run init on one of them" in capsys.readouterr().err


def test_the_configs_name_the_commands_that_read_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(here / "my walk", seconds=0.2)
    assert main(["init", "my walk", "--to", "my configs", "--scale-m", "0.0002"]) == 0
    assert "\n  crossmodal shards 'my configs/my_walk.yaml'\n" in capsys.readouterr().out
    for command, end in (("shards", ""), ("transfer", "_transfer")):
        text = Path(f"my configs/my_walk{end}.yaml").read_text()
        assert text.startswith(f"# crossmodal {command} 'my configs/my_walk{end}.yaml'\n# Paths are relative to")
    assert main(["shards", "my configs/my_walk.yaml"]) == 0
    assert Path("runs/my_walk/pairs/train").is_dir()


def test_folders_of_files_may_be_classes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        place = f"mine/{('chair', 'door')[number % 2]}/{number}"
        write(here, f"{place}_rgb.png", np.zeros((6, 8, 3), dtype=np.uint8))
        write(here, f"{place}_depth.png", np.full((6, 8), 1500, dtype=np.uint16))
    assert main(["init", "mine", "--scale-m", "0.001"]) == 0
    assert "2 folders {group}, each in one split; if they are classes, write {label} instead" in capsys.readouterr().out
    assert "members:  # each folder {group} is in one split" in Path("mine.yaml").read_text()


def test_streams_that_do_not_overlap_are_refused_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(here / "walk", seconds=2, ahead_s=300.0)
    assert main(["init", "walk", "--scale-m", "0.0002"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("depth begins 300.000 s after rgb, so the two do not overlap") == 1
    assert "set offset_ms of depth, about 300000 Written: walk.yaml, walk_transfer.yaml Next: mend" in printed
    text = Path("walk.yaml").read_text()
    assert "# if both recorded together, add offset_ms, about 300000" in text
    Path("walk.yaml").write_text(text.replace("scale_m: 0.0002", "scale_m: 0.0002, offset_ms: 300000"))
    assert main(["shards", "walk.yaml"]) == 0


def test_recordings_without_the_streams_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        walk(here / "all" / name, seconds=2)
    (here / "all/a/depth.txt").unlink()
    assert main(["init", "all", "--scale-m", "0.0002"]) == 0
    printed = capsys.readouterr().out
    assert "all: b; one of 3 recordings" in printed
    assert "1 of 3 recordings lacks one of these streams: a; put them elsewhere" in printed


def test_an_offset_of_more_than_half_a_frame_is_written_down_though_it_is_uncertain(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk(here / "walk", seconds=7, ahead_s=0.200)
    assert main(["init", "walk", "--scale-m", "0.0002"]) == 0
    assert "It is more than half a frame" in capsys.readouterr().out
    assert re.search(r"perhaps offset_ms: (19|20)\d\.\d", Path("walk.yaml").read_text())


def test_grey_pictures_teach_as_rgb(here: Path) -> None:
    for number in range(12):
        write(here, f"mine/{number}_image.png", np.zeros((6, 8), dtype=np.uint8))
        write(here, f"mine/{number}_depth.png", np.full((6, 8), 1500, dtype=np.uint16))
    assert main(["init", "mine", "--scale-m", "0.001"]) == 0
    assert main(["shards", "mine.yaml"]) == 0
    assert load(TransferConfig, Path("mine_transfer.yaml"), []).views["rgb"].modality == "rgb"


def test_pictures_of_other_shapes_are_not_aligned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(here / "walk", seconds=1)
    for file in (here / "walk/depth").iterdir():
        write(here / "walk/depth", file.name, np.asarray(Image.open(file))[:40].copy())
    assert main(["init", "walk", "--scale-m", "0.0002"]) == 0
    printed = capsys.readouterr()
    assert "there is no calibration to register them by" in printed.out
    assert "aligned views need" not in printed.out + printed.err
    assert Path("walk_sheet.png").exists()
    config = load(TransferConfig, Path("walk_transfer.yaml"), [])
    assert not config.views["depth"].aligned


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream", "dept=depth.txt"], "--stream dept=depth.txt: member 'dept' is not known; did you mean 'depth'"),
        (["--stream", "depth=rgb.txt"], "--stream depth=rgb.txt: this stream's kind is rgb, not depth"),
        (["--scale-m", "0"], "init: --scale-m must be above 0 and finite, got 0"),
    ],
)
def test_a_stream_or_a_unit_that_does_not_fit_is_refused(
    words: list[str], message: str, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(recorded), "--to", str(tmp_path), *words]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "file/x"], "init: folder file/x cannot be made: Not a directory; choose another by --to"),
        (["--to", "locked"], "locked cannot be written to; choose another by --to"),
        (["--name", "a: b"], "init: --name must have letters, digits, '_', '-' and '.' only, got 'a: b'"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_at_once(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path))  # root may write anywhere
    walk(here / "walk", seconds=0.2)
    assert main(["init", "walk", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
