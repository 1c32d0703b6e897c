"""CIFAR's binary versions: files of the real format with a few rows, and every refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal.sources import SourceError
from crossmodal.sources.cifar import Cifar

FINE, COARSE = ("apple", "baby", "bear"), ("fruit", "people")


def pictures(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write(path: Path, labels: list[tuple[int, ...]], pixels: np.ndarray) -> None:
    """A row: its labels, then all red, all green and all blue pixels, each from left to right and top to bottom."""
    rows = (bytes(label) + picture.tobytes() for label, picture in zip(labels, pixels, strict=True))
    path.write_bytes(b"".join(rows))


def cifar100(root: Path) -> Path:
    """As cifar-100-binary.tar.gz unpacks: a row has the coarse label, then the fine one."""
    write(root / "train.bin", [(0, 0), (1, 1), (1, 1), (0, 2)], pictures(1, 4))
    write(root / "test.bin", [(1, 2), (0, 0), (1, 1)], pictures(2, 3))
    (root / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (root / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return root


def cifar10(root: Path) -> Path:
    """As cifar-10-binary.tar.gz unpacks: five files to train on, and names that end in an empty line."""
    for number in range(1, 6):
        write(root / f"data_batch_{number}.bin", [(number % 3,), (2,)], pictures(number, 2))
    write(root / "test_batch.bin", [(1,), (0,), (2,)], pictures(9, 3))
    (root / "batches.meta.txt").write_text("\n".join(FINE) + "\n\n")
    return root


def example(folder: Path) -> Cifar:
    """For the conformance tests of all sources."""
    return Cifar(str(cifar100(folder)))


def decoded(source: Cifar, split: str) -> torch.Tensor:
    return torch.stack([source.fields()["rgb"].decode(pair.members["rgb.png"]) for pair in source.pairs(split)])


def test_not_a_number_of_a_picture_changes(tmp_path: Path) -> None:
    source = Cifar(str(cifar100(tmp_path)))
    for split, seed, count in (("train", 1, 4), ("test", 2, 3)):
        assert torch.equal((decoded(source, split) * 255).round().byte(), torch.from_numpy(pictures(seed, count)))


def test_the_first_byte_is_the_coarse_label_and_the_second_the_fine_one(tmp_path: Path) -> None:
    fine, coarse = Cifar(str(cifar100(tmp_path))), Cifar(str(tmp_path), labels="coarse")
    assert (fine.classes(), coarse.classes()) == (FINE, COARSE)
    assert [pair.label for pair in fine.pairs("train")] == [0, 1, 1, 2]
    assert [pair.label for pair in coarse.pairs("train")] == [0, 1, 1, 0]
    assert fine.digest() != coarse.digest()


def test_the_five_files_of_cifar10_follow_one_another(tmp_path: Path) -> None:
    source = Cifar(str(cifar10(tmp_path)))
    pairs = list(source.pairs("train"))
    assert source.classes() == FINE and source.splits() == ("train", "test")
    assert [pair.key for pair in pairs] == [f"train_{number:05d}" for number in range(10)]
    assert [pair.label for pair in pairs] == [1, 2, 2, 2, 0, 2, 1, 2, 2, 2]
    assert torch.equal((decoded(source, "train")[6:8] * 255).round().byte(), torch.from_numpy(pictures(4, 2)))
    assert [pair.label for pair in source.pairs("test")] == [1, 0, 2]


def test_another_file_is_another_digest(tmp_path: Path) -> None:
    before = Cifar(str(cifar10(tmp_path))).digest()
    write(tmp_path / "data_batch_3.bin", [(0,)], pictures(3, 1))
    assert Cifar(str(tmp_path)).digest() != before


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = cifar100(tmp_path) / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"train\.bin must hold rows of 3074 bytes, got 12295 bytes; fetch"):
        next(Cifar(str(tmp_path)).pairs("train"))
    path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"train\.bin must hold rows of 3074 bytes, got 0 bytes"):
        next(Cifar(str(tmp_path)).pairs("train"))


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write(cifar10(tmp_path) / "test_batch.bin", [(0,), (3,)], pictures(0, 2))
    with pytest.raises(SourceError, match=r"test_batch\.bin: row 1 has label 3, but there are 3 classes"):
        list(Cifar(str(tmp_path)).pairs("test"))


@pytest.mark.parametrize("name", ["data_batch_4.bin", "batches.meta.txt"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (cifar10(tmp_path) / name).unlink()
    with pytest.raises(SourceError, match=rf"{name} .*is missing; unpack the archive again"):
        list(Cifar(str(tmp_path)).pairs("train"))
    with pytest.raises(SourceError, match=f"{name} is missing"):
        Cifar(str(tmp_path)).digest()


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (
            "none",
            "is not a folder; fetch and unpack cifar-100-binary.tar.gz or cifar-10-binary.tar.gz from https://www",
        ),
        ("python", "holds the Python version, whose pickles are not read; fetch and unpack cifar-100-binary.tar.gz"),
        ("above", "holds a folder cifar-100-binary, which is the root"),
        ("empty", r"holds neither train\.bin nor data_batch_1\.bin"),
    ],
)
def test_what_is_no_binary_version_is_refused(tmp_path: Path, there: str, words: str) -> None:
    for folder in ("python", "above/cifar-100-binary", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "python" / "meta").write_bytes(b"\x80\x02")
    with pytest.raises(SourceError, match=rf"root: {tmp_path}/{there} {words}"):
        Cifar(str(tmp_path / there))


def test_cifar10_has_no_coarse_labels(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="labels must be fine, because CIFAR-10 has no superclasses, got coarse"):
        Cifar(str(cifar10(tmp_path)), labels="coarse")


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="split 'valid' is not known"):
        next(Cifar(str(cifar100(tmp_path))).pairs("valid"))
