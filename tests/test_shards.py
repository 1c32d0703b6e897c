"""Shards: what is written is what is read, by us and by WebDataset; whatever is wrong is named."""

import gc
import io
import json
import re
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import webdataset

from crossmodal import SOURCES
from crossmodal.packing import write_shards
from crossmodal.shards import MANIFEST, ShardError, Shards, read_manifest
from crossmodal.sources._base import Pair
from crossmodal.verify import check
from modalities import MODALITIES


@pytest.fixture
def folder(synthetic: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(synthetic / "train", tmp_path / "train"))


def rewrite(path: Path, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Passes a tar's members through `edit`."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, payload in edit(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(payload)
            tar.addfile(entry, io.BytesIO(payload))


def test_what_is_written_is_what_is_read(synthetic: Path) -> None:
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=40, size=32)
    shards = Shards.open(synthetic / "train")
    assert len(shards) == 96
    for index, pair in enumerate(source.pairs("train")):
        key, payloads = shards.read(index, list(pair.members))
        assert (key, payloads) == (pair.key, pair.members)
        assert shards.facts(index)["label"] == pair.label


def test_webdataset_reads_our_shards(synthetic: Path) -> None:
    names = [str(path) for path in sorted((synthetic / "train").glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing its files to the collector
        theirs = list(webdataset.WebDataset(names, shardshuffle=False))
        gc.collect()
    shards = Shards.open(synthetic / "train")
    assert [sample["__key__"] for sample in theirs] == [shards.read(i, [])[0] for i in range(96)]
    assert theirs[50]["depth.png"] == shards.read(50, ["depth.png"])[1]["depth.png"]


def test_the_same_pairs_give_the_same_bytes(synthetic: Path, tmp_path: Path) -> None:
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=40, size=32)
    again = write_shards(
        source.pairs("train"), tmp_path, fields=source.fields(), classes=source.classes(), pairs_per_shard=25
    )
    assert again == read_manifest(synthetic / "train")


def test_the_manifest_knows_counts_units_and_statistics(synthetic: Path) -> None:
    manifest = read_manifest(synthetic / "train")
    assert [shard.pairs for shard in manifest.shards] == [25, 25, 25, 21]
    assert sum(manifest.labels.values()) == 96
    assert manifest.fields["depth"].stored == {"scale_m": 0.001, "invalid": 0}
    # scenes lie between 0.4 and 8 m
    assert 0.3 < manifest.statistics["depth"]["min"] < manifest.statistics["depth"]["max"] <= 8.0
    assert 0 < manifest.statistics["rgb"]["mean"] < 1


def test_sound_shards_have_nothing_wrong(synthetic: Path) -> None:
    assert check(synthetic / "train") == []


def without(name: str) -> Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]:
    return lambda members: [member for member in members if member != members[0] and member[0] != name]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing member": (
        lambda shard: rewrite(shard, lambda m: [x for x in m if x[0] != first(m, "depth.png")]),
        r"000001\.tar: pair '\S+' is missing its 'depth.png'",
    ),
    "unreadable": (
        lambda shard: rewrite(
            shard, lambda m: [(n, b"not a picture") if n == first(m, "rgb.jpg") else (n, p) for n, p in m]
        ),
        r"000001\.tar: pair '\S+': 'rgb.jpg' is unreadable",
    ),
    "duplicated": (
        lambda shard: rewrite(shard, lambda m: [m[0], *m]),
        r"000001\.tar: pair '\S+' has a duplicated member",
    ),
    "interleaved": (
        lambda shard: rewrite(shard, lambda m: [*m[1:], m[0]]),
        r"000001\.tar: pair '\S+' is interleaved",
    ),
    "truncated": (
        lambda shard: shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2]),
        r"000001\.tar: (truncated inside|not a readable tar, or truncated)",
    ),
    "zero bytes": (
        lambda shard: rewrite(shard, lambda m: [(m[0][0], b""), *m[1:]]),
        r"000001\.tar: pair '\S+' has an empty member '\S+' \(zero bytes\)",
    ),
    "missing shard": (lambda shard: shard.unlink(), r"000001\.tar: missing, though the manifest lists it"),
    "changed byte": (
        lambda shard: shard.write_bytes(flipped(shard.read_bytes())),
        r"000001\.tar: its bytes changed since it was written",
    ),
}


def first(members: list[tuple[str, bytes]], ending: str) -> str:
    return next(name for name, _ in members if name.endswith(ending))


def flipped(content: bytes) -> bytes:
    return content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_names_each_damage(folder: Path, damage: str) -> None:
    hurt, words = DAMAGES[damage]
    hurt(folder / "000001.tar")
    problems = "\n".join(check(folder))
    assert re.search(words, problems), problems


@pytest.mark.parametrize("damage", ["duplicated", "interleaved", "truncated", "zero bytes", "missing shard"])
def test_reading_refuses_a_damaged_shard(folder: Path, damage: str) -> None:
    DAMAGES[damage][0](folder / "000001.tar")
    shards = Shards.open(folder)
    shards.read(0, ["rgb.jpg"])  # the shard before it is sound
    with pytest.raises(ShardError, match=r"000001\.tar"):
        shards.read(30, ["rgb.jpg"])


def test_a_pair_in_two_shards_is_named(folder: Path) -> None:
    with tarfile.open(folder / "000000.tar") as tar:
        stolen = [(member.name, tar.extractfile(member).read()) for member in tar][:4]
    rewrite(folder / "000001.tar", lambda members: [*stolen, *members[len(stolen) :]])
    assert any("is duplicated: it is also in" in problem for problem in check(folder))


def test_a_folder_without_manifest_is_unfinished(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(ShardError, match=r"manifest.json is missing \(the folder exists but its shards were not fini"):
        Shards.open(folder)
    with pytest.raises(ShardError, match="there is no such folder"):
        Shards.open(tmp_path / "nowhere")


def test_a_manifest_of_another_format_is_refused(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": "other/9"}))
    with pytest.raises(ShardError, match="format must be 'crossmodal-shards/1', got 'other/9'"):
        Shards.open(folder)


def pairs_of(*made: Pair) -> Iterator[Pair]:
    return iter(made)


def depth_pair(key: str, payload: bytes | None = None, extension: str = "png") -> Pair:
    modality = MODALITIES.get("depth")(size=8)
    import torch

    return Pair(
        key, {f"depth.{extension}": modality.encode(torch.full((1, 8, 8), 2.0)) if payload is None else payload}
    )


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([depth_pair("a.b")], "key 'a.b' must be of letters, digits"),
        ([depth_pair("a"), depth_pair("a")], "key 'a' comes twice"),
        ([Pair("a", {"rgb.jpg": b"x"})], "pair 'a' has no 'depth'; it has rgb"),
        ([depth_pair("a", extension="jpg")], "pair 'a': depth must be one of png, npy, got 'jpg'"),
        ([depth_pair("a", payload=b"junk")], "pair 'a', field depth.png: "),
        ([], "no pairs came from the source"),
    ],
)
def test_writing_refuses_bad_pairs(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    fields = {"depth": MODALITIES.get("depth")(size=8)}
    with pytest.raises(ShardError, match=words):
        write_shards(pairs_of(*pairs), tmp_path, fields=fields, classes=())
    assert not (tmp_path / MANIFEST).exists()
