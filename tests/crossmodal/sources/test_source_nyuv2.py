"""NYU Depth v2 in the layout of the published files, written here with h5py and SciPy, and every refusal."""

import io
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from published import NYU_DATA as DATA
from published import NYU_MAP_13 as MAP_13
from published import NYU_MAP_40 as MAP_40
from published import save_nyu_data, save_nyu_mappings, save_nyu_split

from crossmodal.sources import Pair, SourceError
from crossmodal.sources.nyuv2 import Nyuv2

HEIGHT, WIDTH = 4, 6
NAMES = ("book", "wall", "odd thing", "cat bed", "lamp")  # of stored values 1 to 5
SCENES = ("kitchen_0001", "kitchen_0001", "bedroom_0002", "cafe_0001", "bedroom_0003", "bookstore_0001")
TYPES = tuple(scene.rsplit("_", 1)[0] for scene in SCENES)
TRAIN, TEST = (2, 1, 3, 5), (4, 6)
CLASSES_3, TO_3 = ("wall", "books", "otherprop"), (2, 1, 3, 3, 3)  # for the 40 of the published file
CLASSES_2, TO_2 = ("books", "wall"), (2, 1, 1)  # for the 13


def array(name: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """As MATLAB shows it, with the pictures on the last axis."""
    numbers = np.random.default_rng(len(name))
    shape = (height, width, len(SCENES))
    if name == "images":
        return numbers.integers(0, 256, (height, width, 3, len(SCENES)), np.uint8)
    if name == "labels":
        return numbers.integers(0, 1 + len(NAMES), shape, np.uint16)
    metres = numbers.uniform(0.8, 9, shape).astype(np.float32)
    return metres if name == "depths" else np.where(numbers.random(shape) < 0.3, np.float32(0), metres)


def save_mappings(root: Path, to_40: tuple[int, ...] = TO_3, to_13: tuple[int, ...] = TO_2) -> None:
    save_nyu_mappings(root, CLASSES_3, to_40, CLASSES_2, to_13)


def save_data(root: Path, **others: np.ndarray) -> None:
    arrays = {name: array(name) for name in ("images", "depths", "rawDepths", "labels", "instances")} | others
    save_nyu_data(root, arrays, NAMES, SCENES)


def nyuv2(root: Path) -> Path:
    save_data(root)
    save_nyu_split(root, TRAIN, TEST)
    save_mappings(root)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nyuv2(tmp_path_factory.mktemp("nyuv2"))


def example(folder: Path) -> Nyuv2:
    """For the conformance tests of all sources."""
    return Nyuv2(str(nyuv2(folder)), crop=False)


def stored(pair: Pair, member: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(pair.members[member])))


def every(source: Nyuv2) -> dict[int, Pair]:
    """The pairs of all splits by their number."""
    return {int(pair.key): pair for split in source.splits() for pair in source.pairs(split)}


def test_axes_are_in_the_order_that_matlab_shows(whole: Path) -> None:
    pairs = every(Nyuv2(str(whole), crop=False))
    assert sorted(pairs) == [1, 2, 3, 4, 5, 6]
    for number, pair in pairs.items():
        np.testing.assert_array_equal(stored(pair, "rgb.png"), array("images")[..., number - 1])
        assert pair.facts == {"number": number, "scene_type": TYPES[number - 1]}


@pytest.mark.parametrize(("depth", "name"), [("filled", "depths"), ("raw", "rawDepths")])
def test_depth_is_rounded_to_millimetres_and_0_without_a_reading(whole: Path, depth: str, name: str) -> None:
    source = Nyuv2(str(whole), crop=False, depth=depth)
    for number, pair in every(source).items():
        millimetres = stored(pair, "depth.png")
        assert millimetres.dtype == np.uint16
        np.testing.assert_array_equal(millimetres, np.rint(array(name)[..., number - 1].astype(np.float64) * 1000))
        metres = source.fields()["depth"].decode(pair.members["depth.png"])[0]
        assert torch.equal(metres, torch.from_numpy(millimetres.astype(np.float64) / 1000).float())
    assert (array("rawDepths") == 0).any()


@pytest.mark.parametrize(
    ("count", "names", "classes"),
    [
        (894, NAMES, (-1, 0, 1, 2, 3, 4)),
        (40, CLASSES_3, (-1, 1, 0, 2, 2, 2)),
        (13, CLASSES_2, (-1, 0, 1, 0, 0, 0)),
    ],
)
def test_pixel_classes_are_those_of_the_mapping(
    whole: Path, count: int, names: tuple[str, ...], classes: tuple[int, ...]
) -> None:
    source = Nyuv2(str(whole), crop=False, pixel_classes=count)
    modality = source.fields()["labels"]
    assert modality.classes == names
    for number, pair in every(source).items():
        expected = [[classes[value] for value in row] for row in array("labels")[..., number - 1]]
        assert modality.decode(pair.members["labels.png"])[0].tolist() == expected


def test_the_published_split_counts_from_1_and_groups_are_scenes(whole: Path) -> None:
    source = Nyuv2(str(whole), crop=False)
    assert source.splits() == ("train", "test")
    assert [pair.key for pair in source.pairs("train")] == ["0001", "0002", "0003", "0005"]
    assert [pair.key for pair in source.pairs("test")] == ["0004", "0006"]
    assert {number: pair.group for number, pair in every(source).items()} == dict(enumerate(SCENES, 1))


def test_types_of_scene_are_ten_classes_or_all(whole: Path) -> None:
    ten, all_types = Nyuv2(str(whole), crop=False), Nyuv2(str(whole), crop=False, scene_classes=27)
    assert len(ten.classes()) == 10 and ten.classes()[-1] == "others"
    labels = {number: ten.classes()[pair.label] for number, pair in every(ten).items()}
    assert labels == dict(enumerate(("kitchen", "kitchen", "bedroom", "others", "bedroom", "bookstore"), 1))
    assert all_types.classes() == ("bedroom", "bookstore", "cafe", "kitchen")
    assert {n: all_types.classes()[pair.label] for n, pair in every(all_types).items()} == dict(enumerate(TYPES, 1))


def test_validation_takes_whole_scenes_of_the_training_pictures(whole: Path) -> None:
    source = Nyuv2(str(whole), crop=False, validation_share=0.4)
    assert source.splits() == ("train", "validation", "test")
    train, validation = ([*source.pairs(split)] for split in ("train", "validation"))
    assert sorted(int(pair.key) for pair in train + validation) == sorted(TRAIN)
    assert not {pair.group for pair in train} & {pair.group for pair in validation}
    assert [pair.key for pair in source.pairs("test")] == ["0004", "0006"]


def test_the_crop_leaves_rows_45_to_471_and_columns_41_to_601(tmp_path: Path) -> None:
    images = np.zeros((480, 640, 3, 2), np.uint8)
    images[44:471, 40:601] = np.random.default_rng(0).integers(1, 255, (427, 561, 3, 2), np.uint8)
    arrays = {"images": images, "depths": images[:, :, 0] / np.float32(30), "labels": images[:, :, 1] % 6}
    save_nyu_data(tmp_path, arrays, NAMES, SCENES[1:3])
    save_nyu_split(tmp_path, (1,), (2,))
    save_mappings(tmp_path)
    (pair,) = Nyuv2(str(tmp_path)).pairs("train")
    np.testing.assert_array_equal(stored(pair, "rgb.png"), images[44:471, 40:601, :, 0])
    assert stored(pair, "rgb.png").all()
    assert {stored(pair, name).shape for name in ("depth.png", "labels.png")} == {(427, 561)}


def test_options_and_files_change_the_digest(tmp_path: Path) -> None:
    root = str(nyuv2(tmp_path))
    plain = Nyuv2(root, crop=False).digest()
    assert plain == Nyuv2(root, crop=False).digest()
    others = [Nyuv2(root), Nyuv2(root, crop=False, depth="raw"), Nyuv2(root, crop=False, pixel_classes=13)]
    assert len({plain, *(other.digest() for other in others)}) == 4
    save_mappings(tmp_path, to_40=(1, 1, 1, 1, 1))
    (tmp_path / MAP_40).write_bytes((tmp_path / MAP_40).read_bytes() + b"\0" * 8)
    assert Nyuv2(root, crop=False).digest() != plain


def read_all(root: Path, **options: object) -> None:
    every(Nyuv2(str(root), **{"crop": False, **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [DATA, "splits.mat", MAP_40, MAP_13])
def test_a_missing_file_is_named_with_its_origin(tmp_path: Path, name: str) -> None:
    (nyuv2(tmp_path) / name).unlink()
    with pytest.raises(SourceError, match=rf"root: {tmp_path}/{name} is missing; it comes from http"):
        Nyuv2(str(tmp_path), pixel_classes=13)


@pytest.mark.parametrize("name", [MAP_40, MAP_13])
def test_a_mapping_that_is_not_needed_may_be_missing(tmp_path: Path, name: str) -> None:
    (nyuv2(tmp_path) / name).unlink()
    read_all(tmp_path, pixel_classes=894)


@pytest.mark.parametrize(
    ("name", "give", "words"),
    [
        (DATA, "splits.mat", "must be a MATLAB file of version 7.3, as published, but is of version 5; fetch the orig"),
        ("splits.mat", DATA, "must be a MATLAB file of version 5, as published, but is of version 7.3; fetch the orig"),
        (MAP_40, DATA, "must be a MATLAB file of version 5, as published, but is of version 7.3"),
        (MAP_13, DATA, "must be a MATLAB file of version 5, as published, but is of version 7.3"),
        (DATA, "page", "must be a MATLAB file of version 7.3, but begins with b'<!DOCTYPE html>"),
        ("splits.mat", "page", "must be a MATLAB file of version 5, but begins with b'<!DOCTYPE html>"),
        ("splits.mat", MAP_40, "has no variable 'trainNdxs'; it has "),
        (MAP_40, "splits.mat", "has no variable 'mapClass'; it has "),
    ],
)
def test_another_file_in_the_place_of_one_is_refused(tmp_path: Path, name: str, give: str, words: str) -> None:
    (nyuv2(tmp_path) / "page").write_text("<!DOCTYPE html><html>Not found</html>")
    (tmp_path / name).write_bytes((tmp_path / give).read_bytes())
    with pytest.raises(SourceError, match=rf"{name} {words}"):
        read_all(tmp_path, pixel_classes=13)


@pytest.mark.parametrize("name", [DATA, "splits.mat", MAP_40, MAP_13])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str, share: float) -> None:
    payload = (nyuv2(tmp_path) / name).read_bytes()
    (tmp_path / name).write_bytes(payload[: int(share * len(payload))])
    with pytest.raises(
        SourceError, match=rf"{tmp_path}/{name} (is damaged or cut short|has no variable|must be a MAT)"
    ):
        read_all(tmp_path, pixel_classes=13)


def test_no_damage_leads_to_another_kind_of_error(tmp_path: Path) -> None:
    random.seed(0)
    for name in (DATA, "splits.mat", MAP_40, MAP_13):
        payload = (nyuv2(tmp_path) / name).read_bytes()
        for _ in range(12):
            start = random.randrange(len(payload) - 16)
            (tmp_path / name).write_bytes(payload[:start] + random.randbytes(16) + payload[start + 16 :])
            with suppress(SourceError):
                read_all(tmp_path, pixel_classes=13)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root: save_nyu_split(root, TRAIN, (4,)),
            "each of the 6 pictures of .* once, from 1, got 4 for train.* and 1",
        ),
        (lambda root: save_nyu_split(root, TRAIN, (4, 7)), r"got 4 for training and 2 for testing, the highest 7"),
        (
            lambda root: save_nyu_split(root, (0, 1, 2, 3), (4, 5)),
            r"got 4 for training and 2 for test.*, the highest 5",
        ),
        (lambda root: save_nyu_split(root, TRAIN, (4, 5)), r"splits\.mat must name each of the 6 pictures"),
        (
            lambda root: save_data(root, depths=array("depths")[..., :5]),
            rf"depths must be of shape \(6, {WIDTH}, {HEIGHT}\), got \(5, {WIDTH}, {HEIGHT}\)",
        ),
        (lambda root: save_data(root, labels=array("labels").T), r"labels must be of shape \(6, .*\), got \(4, 6, 6\)"),
        (lambda root: save_data(root, images=array("images")[..., :5]), r"depths must be of shape \(5, "),
        (
            lambda root: save_nyu_data(
                root, {name: array(name) for name in ("images", "depths", "labels")}, NAMES, SCENES[1:]
            ),
            r"scenes must name 6 scenes, got 5",
        ),
        (lambda root: save_data(root, images=array("depths")), "images must be pictures x 3 x width x height, got"),
        (
            lambda root: save_data(root, labels=array("labels") + np.uint16(1)),
            r"labeled\.mat: picture \d: labels must be from 0 to 5, got 1 to 6",
        ),
        (
            lambda root: save_data(root, depths=np.full_like(array("depths"), np.nan)),
            r"labeled\.mat: picture \d: a distance must be finite",
        ),
        (
            lambda root: save_mappings(root, to_40=(1, 2, 3)),
            r"classMapping40\.mat: mapClass must map 5 classes to 1 to 3, which have names, got 3 values from 1 to 3",
        ),
        (lambda root: save_mappings(root, to_40=(1, 2, 3, 4, 1)), r"got 5 values from 1 to 4"),
        (lambda root: save_mappings(root, to_13=(0, 1, 2)), r"class13Mapping\.mat: labels13 must .* from 0 to 2"),
        (
            lambda root: scipy.io.savemat(root / MAP_13, {"classMapping13": np.array([[1, 2]])}),
            "classMapping13 must be a structure with labels13 and classNames",
        ),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    change(nyuv2(tmp_path))
    with pytest.raises(SourceError, match=words):
        read_all(tmp_path, pixel_classes=13)


def test_a_crop_of_other_pictures_is_refused(whole: Path) -> None:
    with pytest.raises(SourceError, match=r"crop needs pictures of 640 x 480, got 6 x 4; set crop: false"):
        Nyuv2(str(whole)).splits()


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1.0, "validation_share must be at least 0 and below 1, got 1.0"),
        (-0.1, "validation_share must be at least 0"),
        (0.01, "validation_share 0.01 leaves 4 of 4 pictures for training; set another share"),
    ],
)
def test_a_share_that_leaves_nothing_is_refused(whole: Path, share: float, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        Nyuv2(str(whole), crop=False, validation_share=share).splits()


def test_an_unknown_split_is_refused(whole: Path) -> None:
    with pytest.raises(SourceError, match="split 'val' is not known"):
        next(Nyuv2(str(whole), crop=False).pairs("val"))


def test_a_missing_package_is_one_sentence(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    words = (
        r"labeled\.mat needs the package h5py, which is not installed: pip install 'crossmodal-transfer\[datasets\]'"
    )
    with pytest.raises(SourceError, match=words):
        Nyuv2(str(whole), crop=False).splits()
