"""The IDX files of MNIST and Fashion-MNIST: of the real format with a few pictures, and every refusal."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal.sources import SourceError
from crossmodal.sources.idx import Idx
from modalities.luminance import Luminance

LABELS = {"train": (3, 0, 9, 1), "t10k": (7, 2)}
HEIGHT, WIDTH = 5, 7  # unlike each other, so that a picture on its side is seen


def pictures(part: str) -> list[list[list[int]]]:
    """[count][height][width], 0 to 255."""
    shape = (len(LABELS[part]), HEIGHT, WIDTH)
    return np.random.default_rng(len(part)).integers(0, 256, shape).tolist()


def images_file(part: str) -> bytes:
    """Header, then picture after picture, each row after row."""
    sizes = b"".join(size.to_bytes(4, "big") for size in (len(LABELS[part]), HEIGHT, WIDTH))
    return b"\0\0\x08\x03" + sizes + bytes(number for picture in pictures(part) for row in picture for number in row)


def labels_file(part: str) -> bytes:
    return b"\0\0\x08\x01" + len(LABELS[part]).to_bytes(4, "big") + bytes(LABELS[part])


def idx(root: Path, *, packed: bool = False) -> Path:
    """The four files, as they are published (packed) or unpacked."""
    for part in LABELS:
        for name, payload in (("images-idx3", images_file(part)), ("labels-idx1", labels_file(part))):
            path = root / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(payload) if packed else payload)
    return root


def example(folder: Path) -> Idx:
    """For the conformance tests of all sources."""
    return Idx(str(idx(folder)))


@pytest.mark.parametrize("packed", [True, False])
def test_not_a_number_of_a_picture_changes_or_moves(tmp_path: Path, packed: bool) -> None:
    source = Idx(str(idx(tmp_path, packed=packed)))
    for split, part in (("train", "train"), ("test", "t10k")):
        for modality in (source.fields()["rgb"], Luminance()):
            seen = torch.stack([modality.decode(pair.members["rgb.png"]) for pair in source.pairs(split)])
            grey = torch.tensor(pictures(part), dtype=torch.uint8)
            assert torch.equal((seen * 255).round().byte(), grey[:, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("packed", [True, False])
def test_labels_and_keys_are_in_the_files_order(tmp_path: Path, packed: bool) -> None:
    source = Idx(str(idx(tmp_path, packed=packed)))
    assert source.splits() == ("train", "test")
    assert [(pair.key, pair.label) for pair in source.pairs("train")] == [
        ("train_00000", 3), ("train_00001", 0), ("train_00002", 9), ("train_00003", 1)
    ]  # fmt: skip
    assert [(pair.key, pair.label) for pair in source.pairs("test")] == [("test_00000", 7), ("test_00001", 2)]


def test_of_a_file_and_its_packed_twin_the_file_is_read(tmp_path: Path) -> None:
    path = idx(tmp_path) / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(b"no gzip")
    assert [pair.label for pair in Idx(str(tmp_path)).pairs("test")] == [7, 2]


def test_classes_are_digits_or_clothes(tmp_path: Path) -> None:
    digits, fashion = Idx(str(idx(tmp_path))), Idx(str(tmp_path), names="fashion")
    assert digits.classes() == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert (len(fashion.classes()), fashion.classes()[0], fashion.classes()[9]) == (10, "T-shirt/top", "Ankle boot")
    assert digits.digest() != fashion.digest()


def test_another_file_is_another_digest(tmp_path: Path) -> None:
    before = Idx(str(idx(tmp_path))).digest()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"")
    assert Idx(str(tmp_path)).digest() != before


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "must begin with 00 00 08 03, as IDX files of bytes in 3 dimensions do, got nothing"),
        (
            labels_file("train"),
            "must begin with 00 00 08 03, as IDX files .* do, got 00 00 08 01",
        ),
        (b"\0\0\x0d\x03" + images_file("train")[4:], "must begin with 00 00 08 03, .*, got 00 00 0d 03"),
        (images_file("train")[:15], "must begin with a header of 16 bytes, got 15; fetch it again"),
        (images_file("train")[:-1], "must hold 4 x 5 x 7 bytes, at least one, after a header of 16, got 139; fetch"),
        (images_file("train") + b"\0", "must hold 4 x 5 x 7 bytes, at least one, after a header of 16, got 141; fetch"),
        (images_file("train")[:4] + bytes(12), "must hold 0 x 0 x 0 bytes, at least one, after a header of 16, got 0"),
    ],
    ids=["empty", "labels", "floats", "header", "short", "long", "none"],
)
def test_what_is_no_whole_file_of_pictures_is_refused(tmp_path: Path, packed: bool, payload: bytes, words: str) -> None:
    name = f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    (idx(tmp_path, packed=packed) / name).write_bytes(gzip.compress(payload) if packed else payload)
    with pytest.raises(SourceError, match=rf"{name} {words}"):
        next(Idx(str(tmp_path)).pairs("train"))


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(0, -12, "end-of-stream"), (1, None, "Not a gzipped file"), (0, 10, "end-of-stream")],
    ids=["tail", "head", "body"],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, start: int, end: int | None, words: str) -> None:
    path = idx(tmp_path, packed=True) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[start:end])
    with pytest.raises(SourceError, match=rf"{path.name} is not a gzip file, or is damaged or cut short: .*{words}"):
        next(Idx(str(tmp_path)).pairs("test"))


def test_a_gzip_file_with_wrong_bytes_in_it_is_refused(tmp_path: Path) -> None:
    path = idx(tmp_path, packed=True) / "t10k-images-idx3-ubyte.gz"
    payload = path.read_bytes()
    path.write_bytes(payload[:10] + b"\xff" * 8 + payload[18:])  # the compressed stream begins at byte 10
    with pytest.raises(SourceError, match=rf"{path.name} is not a gzip file, or is damaged or cut short: Error -3"):
        next(Idx(str(tmp_path)).pairs("test"))


def test_as_many_labels_as_pictures_are_asked_for(tmp_path: Path) -> None:
    (idx(tmp_path) / "train-labels-idx1-ubyte").write_bytes(labels_file("t10k"))
    with pytest.raises(SourceError, match="train-labels-idx1-ubyte has 2 labels, but train-images-idx3-ubyte has 4"):
        next(Idx(str(tmp_path)).pairs("train"))


def test_a_label_beyond_the_classes_is_refused_before_the_first_pair(tmp_path: Path) -> None:
    (idx(tmp_path) / "t10k-labels-idx1-ubyte").write_bytes(labels_file("t10k")[:-1] + b"\x0a")
    with pytest.raises(SourceError, match="t10k-labels-idx1-ubyte: picture 1 has label 10, but there are 10 classes"):
        next(Idx(str(tmp_path)).pairs("test"))


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (idx(tmp_path) / name).unlink()
    with pytest.raises(SourceError, match=rf"root: {tmp_path} holds neither {name} nor {name}\.gz; apt-get install"):
        Idx(str(tmp_path))


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="split 't10k' is not known"):
        next(Idx(str(idx(tmp_path))).pairs("t10k"))
