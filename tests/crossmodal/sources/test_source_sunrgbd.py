"""SUN RGB-D in the layout of its two archives, written here with h5py, SciPy and Pillow, and every refusal."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from published import SUN_LABELS as LABELS
from published import SUN_META as META
from published import SUN_NAMES as NAMES
from published import SUN_SPLITS as SPLITS
from published import rotate, save_picture, save_sun_frame, save_sun_labels, save_sun_meta, save_sun_splits

from crossmodal.sources import Pair, SourceError
from crossmodal.sources.sunrgbd import SunRgbd

HEIGHT, WIDTH = 5, 7
FOLDERS = (
    "kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize",
    "kv1/NYUdata/NYU0001",
    "xtion/sun3ddata/mit_32_d507/d507_2/0000004-000000132321",
    "xtion/sun3ddata/mit_32_d507/d507_2/0000100-000003331678",
    "realsense/sa/2014_10_21-18_18_54-1311000073",
)
SCENES = ("bathroom", "office_kitchen", "study_space", "study_space", "office")
TRAIN, VALIDATION, TEST = (4, 2), (3,), (5, 1)  # numbers of pictures, from 1
CLASSES = ("wall", "floor", "cabinet", "bed")  # for the 37


def colour(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def millimetres(number: int) -> np.ndarray:
    """True distances; 0 where there is no reading."""
    numbers = np.random.default_rng(number)
    return np.where(numbers.random((HEIGHT, WIDTH)) < 0.2, 0, numbers.integers(400, 8000, (HEIGHT, WIDTH)))


def classes(number: int) -> np.ndarray:
    """0 for none, or from 1."""
    return np.random.default_rng(number).integers(0, 1 + len(CLASSES), (HEIGHT, WIDTH), np.uint8)


def folders(numbers: tuple[int, ...]) -> list[str]:
    return [FOLDERS[number - 1] for number in numbers]


def save_splits(root: Path, test: tuple[int, ...] = TEST) -> None:
    save_sun_splits(root, folders(TRAIN + VALIDATION), folders(test), (folders(TRAIN), folders(VALIDATION)))


def sunrgbd(root: Path) -> Path:
    for number, (name, scene) in enumerate(zip(FOLDERS, SCENES, strict=True), 1):
        depths = {"depth_bfx": millimetres(number), "depth": millimetres(100 + number)}
        save_sun_frame(root / "SUNRGBD" / name, number, colour(number), depths, scene)
    save_sun_meta(root, FOLDERS)
    save_sun_labels(root, [classes(number) for number in range(1, 1 + len(FOLDERS))], CLASSES)
    save_splits(root)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sunrgbd(tmp_path_factory.mktemp("sunrgbd"))


def example(folder: Path) -> SunRgbd:
    """For the conformance tests of all sources."""
    return SunRgbd(str(sunrgbd(folder)))


def stored(pair: Pair, member: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(pair.members[member])))


def every(source: SunRgbd) -> dict[int, Pair]:
    """The pairs of all splits by their number."""
    return {int(pair.key): pair for split in source.splits() for pair in source.pairs(split)}


def test_colour_is_packed_byte_for_byte(whole: Path) -> None:
    for number, pair in every(SunRgbd(str(whole))).items():
        assert pair.members["rgb.jpg"] == (whole / f"SUNRGBD/{FOLDERS[number - 1]}/image/{number:07d}.jpg").read_bytes()


@pytest.mark.parametrize(("depth", "first"), [("filled", 0), ("raw", 100)])
def test_the_rotation_of_the_bits_of_depth_is_undone(whole: Path, depth: str, first: int) -> None:
    source = SunRgbd(str(whole), depth=depth)
    for number, pair in every(source).items():
        assert stored(pair, "depth.png").dtype == np.uint16
        np.testing.assert_array_equal(stored(pair, "depth.png"), millimetres(first + number))
        metres = source.fields()["depth"].decode(pair.members["depth.png"])[0].numpy()
        np.testing.assert_allclose(metres, millimetres(first + number) / 1000, rtol=1e-7)


def test_readings_beyond_8_m_become_8_m(tmp_path: Path) -> None:
    beyond = np.array([[0, 1, 7999, 8000, 8001, 9000, 65535]] * HEIGHT)
    save_picture(sunrgbd(tmp_path) / f"SUNRGBD/{FOLDERS[0]}/depth_bfx/0000001_abs.png", rotate(beyond))
    pair = every(SunRgbd(str(tmp_path)))[1]
    assert stored(pair, "depth.png").tolist() == [[0, 1, 7999, 8000, 8000, 8000, 8000]] * HEIGHT


def test_pixel_classes_count_from_1_in_the_file_and_0_is_none(whole: Path) -> None:
    source = SunRgbd(str(whole))
    modality = source.fields()["labels"]
    assert modality.classes == CLASSES
    for number, pair in every(source).items():
        assert modality.decode(pair.members["labels.png"])[0].tolist() == (classes(number).astype(int) - 1).tolist()


def test_the_published_splits_are_kept(whole: Path) -> None:
    two, three = SunRgbd(str(whole)), SunRgbd(str(whole), validation=True)
    assert two.splits() == ("train", "test")
    assert {split: [int(pair.key) for pair in two.pairs(split)] for split in two.splits()} == {
        "train": [*TRAIN, *VALIDATION],
        "test": [*TEST],
    }
    assert {split: [int(pair.key) for pair in three.pairs(split)] for split in three.splits()} == {
        "train": [*TRAIN],
        "validation": [*VALIDATION],
        "test": [*TEST],
    }


def test_labels_are_types_of_scene_and_rare_types_have_none(whole: Path) -> None:
    source = SunRgbd(str(whole))
    assert len(source.classes()) == 19
    names = {number: source.classes()[pair.label] if pair.label >= 0 else "" for number, pair in every(source).items()}
    assert names == {1: "bathroom", 2: "", 3: "study_space", 4: "study_space", 5: "office"}
    assert {number: pair.facts["scene_type"] for number, pair in every(source).items()} == dict(enumerate(SCENES, 1))


def test_pictures_of_one_walk_are_one_group(whole: Path) -> None:
    pairs = every(SunRgbd(str(whole)))
    assert pairs[3].group == pairs[4].group == "xtion/sun3ddata/mit_32_d507/d507_2"
    assert {number: pairs[number].group for number in (1, 2, 5)} == {n: FOLDERS[n - 1] for n in (1, 2, 5)}


def test_options_and_files_change_the_digest(tmp_path: Path) -> None:
    root = str(sunrgbd(tmp_path))
    sources = [SunRgbd(root), SunRgbd(root, depth="raw"), SunRgbd(root, validation=True)]
    assert len({source.digest() for source in sources}) == 3
    before = SunRgbd(root).digest()
    (tmp_path / f"SUNRGBD/{FOLDERS[2]}/scene.txt").write_text("a longer name")
    assert SunRgbd(root).digest() != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SUNRGBD", r"has no folder SUNRGBD; fetch and unpack SUNRGBD\.zip from https://rgbd\.cs\.princeton\.edu"),
        ("SUNRGBDtoolbox", r"has no folder SUNRGBDtoolbox; fetch and unpack SUNRGBDtoolbox\.zip"),
        *((name, rf"{name} is missing; unpack SUNRGBDtoolbox\.zip again") for name in (META, LABELS, NAMES, SPLITS)),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, words: str) -> None:
    path = sunrgbd(tmp_path) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SourceError, match=rf"root: {tmp_path}.*{words}"):
        SunRgbd(str(tmp_path))


@pytest.mark.parametrize("name", ["image/0000003.jpg", "depth_bfx/0000003_abs.png", "scene.txt"])
def test_a_missing_picture_is_found_before_the_first_pair(tmp_path: Path, name: str) -> None:
    (sunrgbd(tmp_path) / "SUNRGBD" / FOLDERS[2] / name).unlink()
    with pytest.raises(SourceError, match=rf"{FOLDERS[2]}/{name} is missing; unpack SUNRGBD\.zip again"):
        SunRgbd(str(tmp_path)).digest()
    with pytest.raises(SourceError, match=rf"{FOLDERS[2]}/{name} cannot be read: No such file"):
        every(SunRgbd(str(tmp_path)))


def save_8_bits(root: Path) -> None:
    save_picture(root / f"SUNRGBD/{FOLDERS[0]}/depth_bfx/0000001_abs.png", np.zeros((HEIGHT, WIDTH), np.uint8))


def cut(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-40]) and None


def put(name: str, other: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / other).read_bytes()) and None


def every_class(number: int) -> list[np.ndarray]:
    return [classes(place) if place != number else np.full((HEIGHT, WIDTH), 5, np.uint8) for place in range(1, 6)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (save_8_bits, r"0000001_abs\.png: depth must be a 16-bit single-channel PNG, got PNG \(8-bit grey\)"),
        (cut(f"SUNRGBD/{FOLDERS[0]}/depth_bfx/0000001_abs.png"), r"0000001_abs\.png: PNG .* is damaged or cut short"),
        (cut(META), r"SUNRGBDMeta\.mat is damaged or cut short"),
        (cut(LABELS), r"SUNRGBD2Dseg\.mat is damaged or cut short"),
        (put(LABELS, META), r"SUNRGBD2Dseg\.mat must be a MATLAB file of version 7\.3, .* but is of version 5"),
        (put(META, LABELS), r"SUNRGBDMeta\.mat must be a MATLAB file of version 5, .* but is of version 7\.3"),
        (put(SPLITS, NAMES), r"allsplit\.mat has no variable 'alltrain'; it has seg37list"),
        (put(META, NAMES), r"SUNRGBDMeta\.mat has no variable 'SUNRGBDMeta'; it has seg37list"),
        (
            lambda root: save_sun_labels(root, [classes(1)], CLASSES),
            r"SUNRGBD2Dseg\.mat has 1 maps, but .*SUNRGBDMeta\.mat lists 5 pictures",
        ),
        (
            lambda root: save_sun_labels(root, every_class(2), CLASSES),
            "picture 2: labels must be from 0 to 4, got 5",
        ),
        (
            lambda root: save_sun_meta(root, FOLDERS[:3]),
            rf"mat: \w+ lists {FOLDERS[3]}, which .* does not have",
        ),
        (lambda root: save_splits(root, (5, 4)), rf"lists {FOLDERS[3]} twice, in train and test"),
        (
            lambda root: scipy.io.savemat(root / META, {"SUNRGBDMeta": np.array([[1.0, 2.0]])}),
            "SUNRGBDMeta must have rgbpath, rgbname and depthname",
        ),
        (
            lambda root: scipy.io.savemat(
                root / SPLITS,
                dict.fromkeys(("alltrain", "alltest", "trainvalsplit"), np.array([["/data/a"]])),
            ),
            "allsplit.mat: paths must have a folder SUNRGBD, got '/data/a'",
        ),
    ],
)
def test_files_that_are_damaged_or_do_not_fit_each_other_are_refused(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    change(sunrgbd(tmp_path))
    with pytest.raises(SourceError, match=words):
        every(SunRgbd(str(tmp_path)))


def test_an_unknown_split_is_refused(whole: Path) -> None:
    with pytest.raises(SourceError, match="split 'validation' is not known"):
        next(SunRgbd(str(whole)).pairs("validation"))
