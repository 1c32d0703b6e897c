"""Recordings as a source, shown by folders of lists, which need no further package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossmodal import SOURCES
from crossmodal.sources import Pair, Source, SourceError

STEP_S = 0.1
MEMBERS = {
    "rgb": {"modality": "rgb", "stream": "rgb.txt"},
    "depth": {"modality": "depth", "stream": "depth.txt", "scale_m": 0.0002},
}


def record(
    folder: Path, *, frames: int = 20, ahead_s: float = 0.007, lost: tuple[int, ...] = (), start_s: float = 1305.0
) -> Path:
    """A folder of lists: frame i has the value i in both sensors; depth lacks some and has another clock."""
    names: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    for number in range(frames):
        stamp = start_s + number * STEP_S
        Image.fromarray(np.full((6, 8, 3), number, dtype=np.uint8)).save(folder / "rgb" / f"{number}.png")
        names["rgb"].append(f"{stamp:.6f} rgb/{number}.png")
        names["groundtruth"].append(f"{stamp + 0.001:.6f} {number * 0.05:g} 0 0 0 0 0 1")
        if number not in lost:
            pixels = np.full((6, 8), 5000 + number, dtype=np.uint16)
            Image.fromarray(pixels).save(folder / "depth" / f"{number}.png")
            names["depth"].append(f"{stamp + ahead_s:.6f} depth/{number}.png")
    for name, lines in names.items():
        (folder / f"{name}.txt").write_text("\n".join(["# a comment", *lines]) + "\n")
    return folder


def recording(root: Path, **options: Any) -> Source:
    return SOURCES.get("recording")(root=str(root), **{"members": MEMBERS} | options)


def example(folder: Path) -> Source:
    """A small instance for the tests that every source passes."""
    return recording(record(folder / "walk"), segment_s=0.5, test_share=0.3, gap_s=0.0)


def values(pairs: list[Pair]) -> list[tuple[int, int]]:
    """What colour and depth show in each pair: the numbers of their frames."""
    shown = []
    for pair in pairs:
        rgb, depth = (decode(pair.members[f"{name}.png"]) for name in ("rgb", "depth"))
        shown.append((int(rgb[0, 0, 0]), int(depth[0, 0]) - 5000))
    return shown


def decode(payload: bytes) -> np.ndarray:
    from modalities.codecs.raster import read_pixels

    return read_pixels(payload)


def test_frames_of_one_moment_form_a_pair_and_losses_are_counted(tmp_path: Path) -> None:
    source = recording(record(tmp_path / "walk", lost=(3, 4, 11)))
    pairs = [*source.pairs("train")]
    assert values(pairs) == [(number, number) for number in range(20) if number not in (3, 4, 11)]
    assert source.left_out() == {"frames that have no depth within 20 ms": 3}
    assert pairs[0].facts == {"stamp_ns": 1305 * 10**9, "difference_ms": {"depth": 7.0}}
    assert {pair.group for pair in pairs} == {"walk"}
    assert pairs[3].key == "walk_000005"


def test_files_pass_byte_for_byte(tmp_path: Path) -> None:
    root = record(tmp_path / "walk")
    pair = next(recording(root).pairs("train"))
    assert pair.members["rgb.png"] == (root / "rgb" / "0.png").read_bytes()


def test_a_clock_that_is_ahead_by_more_than_a_frame_is_corrected(tmp_path: Path) -> None:
    root = record(tmp_path / "walk", ahead_s=0.233)
    assert values([*recording(root, slop_ms=40).pairs("train")])[0] == (2, 0)  # wrong: two frames apart
    members = MEMBERS | {"depth": MEMBERS["depth"] | {"offset_ms": 233}}
    corrected = [*recording(root, members=members).pairs("train")]
    assert values(corrected) == [(number, number) for number in range(20)]
    assert corrected[0].facts["difference_ms"] == {"depth": 0.0}


def test_pairs_can_be_thinned_in_time_and_by_the_way_of_the_camera(tmp_path: Path) -> None:
    root = record(tmp_path / "walk")
    source = recording(root, every_s=0.5)
    assert [pair[0] for pair in values([*source.pairs("train")])] == [0, 5, 10, 15]
    assert source.left_out() == {"frames that lie less than 0.5 s after the pair before": 16}
    source = recording(root, pose="groundtruth.txt", moved_m=0.19)
    pairs = [*source.pairs("train")]
    assert [pair[0] for pair in values(pairs)] == [0, 4, 8, 12, 16]
    assert source.left_out() == {"frames that have a camera that hardly moved since the pair before": 15}
    expected = np.eye(4)
    expected[0, 3] = 0.2
    assert np.allclose(np.reshape(pairs[1].facts["pose"], (4, 4)), expected)


def test_a_split_leaves_a_gap_between_neighbouring_frames(tmp_path: Path) -> None:
    source = recording(record(tmp_path / "walk", frames=60), segment_s=1.0, test_share=0.3, gap_s=0.25)
    parts = {split: [*source.pairs(split)] for split in source.splits()}
    stamps = {split: np.asarray([pair.facts["stamp_ns"] for pair in part]) for split, part in parts.items()}
    assert len(parts["test"]) == 20
    assert np.abs(stamps["train"][:, None] - stamps["test"]).min() >= 0.25e9
    groups = [{pair.group for pair in part} for part in parts.values()]
    assert not groups[0] & groups[1]
    lost = source.left_out()["frames that lie less than 0.25 s from a pair of another split"]
    assert lost == 60 - 20 - len(parts["train"]) > 0


def test_several_recordings_are_groups_with_labels_and_splits_by_their_paths(tmp_path: Path) -> None:
    for split, label, name in (("train", "hall", "a"), ("train", "yard", "a"), ("test", "hall", "b")):
        record(tmp_path / split / label / name, frames=3)
    source = recording(tmp_path, files="{split}/{label}/{key}")
    assert source.splits() == ("train", "test")
    assert source.classes() == ("hall", "yard")
    train = [*source.pairs("train")]
    assert {(pair.label, pair.group) for pair in train} == {(0, "train_a_hall_a"), (1, "train_a_yard_a")}
    assert [pair.group for pair in source.pairs("test")] == ["b"] * 3


def test_a_folder_of_recordings_is_read_without_a_pattern(tmp_path: Path) -> None:
    for name in ("walk10", "walk2"):
        record(tmp_path / name, frames=2)
    assert [pair.key for pair in recording(tmp_path).pairs("train")] == [
        "walk2_000000", "walk2_000001", "walk10_000000", "walk10_000001",
    ]  # fmt: skip


def test_depth_is_registered_into_the_colour_camera(tmp_path: Path) -> None:
    root = record(tmp_path / "walk", frames=1)
    stored = np.full((6, 8), 5000, dtype=np.uint16)
    stored[:, 4:] = 10000  # 2 m
    Image.fromarray(stored).save(root / "depth" / "0.png")
    camera = {"width": 8, "height": 6, "matrix": [8.0, 8.0, 3.5, 2.5]}
    beside = np.eye(4)
    beside[0, 3] = -0.25  # the colour camera is 25 cm to the right: at 1 m that is 2 pixels, at 2 m one
    source = recording(
        root,
        register={"depth": "rgb"},
        cameras={"rgb": camera, "depth": camera},
        transforms={"depth": beside.ravel().tolist()},
    )
    pair = next(source.pairs("train"))
    assert decode(pair.members["depth.png"])[3].tolist() == [5000, 5000, 0, 10000, 10000, 10000, 10000, 0]
    assert pair.facts["intrinsics"] == [8.0, 8.0, 3.5, 2.5]


def test_a_change_of_a_file_or_an_option_changes_the_digest_and_a_move_does_not(tmp_path: Path) -> None:
    root = record(tmp_path / "walk")
    digest = recording(root).digest()
    assert recording(root, slop_ms=21).digest() != digest
    assert recording(root.rename(tmp_path / "elsewhere")).digest() == digest
    file = tmp_path / "elsewhere" / "depth" / "3.png"
    Image.fromarray(np.full((6, 8), 9, dtype=np.uint16)).save(file)
    assert recording(tmp_path / "elsewhere").digest() != digest


Case = tuple[Callable[[Path], object], dict[str, Any], str]
CASES: dict[str, Case] = {
    "no stream": (
        lambda root: None,
        {"members": MEMBERS | {"rgb": {"modality": "rgb", "stream": "rgb"}}},
        r"members.rgb.stream: walk has no stream 'rgb'; did you mean 'rgb.txt'\?",
    ),
    "stream not given": (
        lambda root: None,
        {"members": {"rgb": {"modality": "rgb"}}},
        "members.rgb.stream must be given",
    ),
    "unit not given": (
        lambda root: None,
        {"members": {**MEMBERS, "depth": {"modality": "depth", "stream": "depth.txt"}}},
        r"members.depth.scale_m must be given.*'depth.txt' of walk, frame 0 is 5000, which is 5 m with scale_m: 0.001",
    ),
    "other clocks": (
        lambda root: (root / "depth.txt").write_text("9.5 depth/1.png\n9.6 depth/2.png\n"),
        {},
        r"lasts from -1295.500 to -1295.400 s, and rgb from 0 to 1.900 s: no two frames lie within slop_ms 20, the "
        r"nearest are 1295400.0 ms apart; set members.depth.offset_ms",
    ),
    "a clock that jumps": (
        lambda root: (root / "depth.txt").write_text("1305.0 depth/1.png\n1305.2 depth/2.png\n1305.1 depth/3.png\n"),
        {},
        r"'depth.txt' of walk: the clock jumps back by 0.100 s before frame 2, so",
    ),
    "a line without a path": (
        lambda root: (root / "rgb.txt").write_text("1305.0 rgb/0.png\n1305.1\n"),
        {},
        r"rgb.txt: line 2 must hold a stamp in seconds and 1 more, got '1305.1'",
    ),
    "a file that is not there": (
        lambda root: (root / "rgb" / "5.png").unlink(),
        {},
        r"rgb/5.png, listed in .*rgb.txt, cannot be read: No such file",
    ),
    "a share of one group": (lambda root: None, {"test_share": 0.2}, "walk is the only group.* set segment_s"),
    "a gap that takes all": (
        lambda root: None,
        {"test_share": 0.5, "segment_s": 0.5, "gap_s": 60},
        "gap_s 60 leaves no training pairs",
    ),
    "sound that is none": (
        lambda root: None,
        {"members": {**MEMBERS, "depth": MEMBERS["depth"] | {"seconds": 1}}},
        "members.depth: stream 'depth.txt' of walk is no sound; remove seconds",
    ),
    "an offset that is no number": (
        lambda root: None,
        {"members": {**MEMBERS, "depth": MEMBERS["depth"] | {"offset_ms": "7 ms"}}},
        "members.depth.offset_ms must be a finite number, got '7 ms'",
    ),
    "no calibration": (
        lambda root: None,
        {"register": {"depth": "rgb"}},
        "register.depth: walk has no calibration of 'depth.txt'; set cameras.depth",
    ),
    "no transform": (
        lambda root: None,
        {
            "register": {"depth": "rgb"},
            "cameras": {key: {"width": 8, "height": 6, "matrix": [8, 8, 3.5, 2.5]} for key in ("rgb", "depth")},
        },
        "does not say how the cameras of 'depth.txt' and 'rgb.txt' lie; set transforms.depth",
    ),
    "a camera of another size": (
        lambda root: None,
        {
            "register": {"depth": "rgb"},
            "cameras": {key: {"width": 16, "height": 6, "matrix": [8, 8, 3.5, 2.5]} for key in ("rgb", "depth")},
            "transforms": {"depth": np.eye(4).ravel().tolist()},
        },
        "frame 0: a depth map must have the size of its camera, 16 x 6 pixels, got 8 x 6",
    ),
    "an unknown lens": (
        lambda root: None,
        {"cameras": {"rgb": {"width": 8, "height": 6, "matrix": [8, 8, 3.5, 2.5], "model": "fisheye"}}},
        r"cameras.rgb.model: 'fisheye' is not known .known: plumb_bob, rational_polynomial, equidistant",
    ),
    "coefficients of another lens": (
        lambda root: None,
        {"cameras": {"rgb": {"width": 8, "height": 6, "matrix": [8, 8, 3.5, 2.5], "distortion": [0.1, 0.2]}}},
        "cameras.rgb.distortion must have 0 or 4 or 5 coefficients for plumb_bob, got 2",
    ),
    "a camera without pixels": (
        lambda root: None,
        {"cameras": {"rgb": {"width": 8, "height": 6, "matrix": [0, 8, 3.5, 2.5]}}},
        "cameras.rgb: width, height, fx and fy must be above 0",
    ),
    "a transposed transform": (
        lambda root: None,
        {"transforms": {"depth": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0.1, 0, 0, 1]}},
        "transforms.depth must be the rows of a rotation .*; is the matrix transposed",
    ),
    "a misspelt camera": (
        lambda root: None,
        {"cameras": {"rgb": {"width": 8, "hight": 6}}, "register": {"depth": "rgb"}},
        r"cameras.(rgb.hight is not known; did you mean 'height'\?|depth)",
    ),
    "a member that is not there": (
        lambda root: None,
        {"register": {"dept": "rgb"}},
        r"register: member 'dept' is not known; did you mean 'depth'\?",
    ),
    "poses that are not there": (
        lambda root: (root / "groundtruth.txt").unlink(),
        {"pose": "groundtruth.txt"},
        "pose: walk has no stream 'groundtruth.txt'",
    ),
    "motion without poses": (lambda root: None, {"moved_m": 1.0}, "moved_m and turned_deg need pose"),
    "a picture that depth does not read": (
        lambda root: [Image.open(root / "rgb" / "0.png").save(root / "depth" / f"{n}.png", "JPEG") for n in range(20)],
        {},
        "frame 0 holds JPG, which depth does not read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_sentence_that_says_what_to_do(case: str, tmp_path: Path) -> None:
    damage, options, message = CASES[case]
    damage(record(tmp_path / "walk"))
    with pytest.raises(SourceError, match=message) as caught:
        source = recording(tmp_path / "walk", **options)
        for split in source.splits():
            source.fields()
            list(source.pairs(split))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["slop_ms", "every_s", "gap_s", "moved_m", "segment_s"])
def test_options_out_of_their_range_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"^{name} must be"):
        recording(tmp_path, pose="p", **{name: -1.0})


def test_a_folder_without_a_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SourceError, match=r"is no recording and holds none: it holds notes\.txt; a recording is a bag"):
        recording(tmp_path).splits()
    with pytest.raises(SourceError, match="there is no file or folder"):
        recording(tmp_path / "absent").splits()


def test_shards_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.__main__ import main

    record(tmp_path / "walk", lost=(2, 9))
    config = {"source": {"name": "recording", "root": str(tmp_path / "walk"), "members": MEMBERS},
              "output": str(tmp_path / "pairs")}  # fmt: skip
    (tmp_path / "shards.yaml").write_text(json.dumps(config))
    assert main(["shards", str(tmp_path / "shards.yaml")]) == 0
    assert "left out: 2 frames that have no depth within 20 ms" in capsys.readouterr().out
    report = json.loads((tmp_path / "pairs" / "report.json").read_text())
    assert report["left_out"] == {"frames that have no depth within 20 ms": 2}
