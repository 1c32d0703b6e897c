"""STL-10's binary files: of the real format with a few pictures, and every refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal.sources import SourceError
from crossmodal.sources.stl10 import Stl10

NAMES = ("airplane", "bird", "car")
LABELS = {"train": (1, 3, 2), "test": (2, 1)}
COUNTS = {"train": 3, "test": 2, "unlabeled": 4}


def pictures(kind: str) -> np.ndarray:
    """Random ones, [count, height, width, colour]."""
    shape = (COUNTS[kind], 96, 96, 3)
    return np.random.default_rng(len(kind)).integers(0, 256, shape, dtype=np.uint8)


def stl10(root: Path) -> Path:
    """As stl10_binary.tar.gz unpacks: byte by byte, colour after colour, within it column after column."""
    for kind in COUNTS:
        numbers = (
            int(picture[row, column, colour])
            for picture in pictures(kind)
            for colour in range(3)
            for column in range(96)
            for row in range(96)
        )
        (root / f"{kind}_X.bin").write_bytes(bytes(numbers))
    for kind, labels in LABELS.items():
        (root / f"{kind}_y.bin").write_bytes(bytes(labels))
    (root / "class_names.txt").write_text("\n".join(NAMES))
    (root / "fold_indices.txt").write_text("0 2 \n1 \n")
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stl10(tmp_path_factory.mktemp("stl10"))


def example(folder: Path) -> Stl10:
    """For the conformance tests of all sources."""
    return Stl10(str(stl10(folder)))


def decoded(source: Stl10, split: str) -> torch.Tensor:
    """[count, height, width, colour], 0 to 255."""
    signals = [source.fields()["rgb"].decode(pair.members["rgb.png"]) for pair in source.pairs(split)]
    return (torch.stack(signals) * 255).round().byte().permute(0, 2, 3, 1)


@pytest.mark.parametrize("split", COUNTS)
def test_not_a_number_of_a_picture_changes_or_moves(whole: Path, split: str) -> None:
    assert torch.equal(decoded(Stl10(str(whole)), split), torch.from_numpy(pictures(split)))


def test_labels_count_from_1_in_the_files_and_some_have_none(whole: Path) -> None:
    source = Stl10(str(whole))
    assert (source.classes(), source.splits()) == (NAMES, ("train", "test", "unlabeled"))
    assert [pair.label for pair in source.pairs("train")] == [0, 2, 1]
    assert [pair.label for pair in source.pairs("test")] == [1, 0]
    assert [pair.label for pair in source.pairs("unlabeled")] == [-1] * 4


def test_both_is_the_labelled_ones_and_then_the_others(whole: Path) -> None:
    labelled, both = Stl10(str(whole)), Stl10(str(whole), train="both")
    assert both.splits() == ("train", "test")
    assert list(both.pairs("train")) == [*labelled.pairs("train"), *labelled.pairs("unlabeled")]
    assert list(both.pairs("test")) == list(labelled.pairs("test"))
    assert labelled.digest() != both.digest()


def test_another_file_is_another_digest(tmp_path: Path) -> None:
    before = Stl10(str(stl10(tmp_path))).digest()
    (tmp_path / "unlabeled_X.bin").write_bytes(bytes(27648))
    assert Stl10(str(tmp_path)).digest() != before


@pytest.mark.parametrize("name", ["test_X.bin", "unlabeled_X.bin"])
@pytest.mark.parametrize("size", [0, 27647, 27649])
def test_pictures_cut_short_are_refused(tmp_path: Path, name: str, size: int) -> None:
    (stl10(tmp_path) / name).write_bytes(bytes(size))
    with pytest.raises(SourceError, match=rf"{name} must hold pictures of 27648 bytes, got {size} bytes; unpack"):
        Stl10(str(tmp_path))


@pytest.mark.parametrize("labels", [b"", b"\1\2", b"\1\2\3\1"])
def test_labels_that_do_not_fit_the_pictures_are_refused(tmp_path: Path, labels: bytes) -> None:
    (stl10(tmp_path) / "train_y.bin").write_bytes(labels)
    words = rf"train_y\.bin must hold a byte for each of the 3 pictures of train_X\.bin, got {len(labels)} bytes"
    with pytest.raises(SourceError, match=words):
        Stl10(str(tmp_path))


@pytest.mark.parametrize("label", [0, 4, 255])
def test_a_label_that_is_no_class_is_refused_before_the_first_pair(tmp_path: Path, label: int) -> None:
    (stl10(tmp_path) / "test_y.bin").write_bytes(bytes([1, label]))
    words = rf"test_y\.bin: picture 1 has label {label}, but class_names\.txt has names for labels 1 to 3"
    with pytest.raises(SourceError, match=words):
        next(Stl10(str(tmp_path)).pairs("test"))


@pytest.mark.parametrize("name", ["train_X.bin", "test_y.bin", "unlabeled_X.bin", "class_names.txt"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (stl10(tmp_path) / name).unlink()
    with pytest.raises(SourceError, match=f"root: .*{name} is missing; unpack the archive again"):
        Stl10(str(tmp_path))


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("none", r"is not a folder; fetch and unpack stl10_binary\.tar\.gz from https://cs\.stanford"),
        ("above", "holds a folder stl10_binary, which is the root"),
        ("matlab", "holds the Matlab version, which is not read"),
        ("empty", r"holds no train_X\.bin"),
    ],
)
def test_what_are_no_binary_files_is_refused(tmp_path: Path, there: str, words: str) -> None:
    for folder in ("above/stl10_binary", "matlab", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "matlab" / "train.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(SourceError, match=rf"root: {tmp_path}/{there} {words}"):
        Stl10(str(tmp_path / there))


def test_an_unknown_part_is_refused(whole: Path) -> None:
    with pytest.raises(SourceError, match="split 'unlabelled' is not known; did you mean 'unlabeled'"):
        next(Stl10(str(whole)).pairs("unlabelled"))
    with pytest.raises(SourceError, match="split 'unlabeled' is not known"):
        next(Stl10(str(whole), train="both").pairs("unlabeled"))
