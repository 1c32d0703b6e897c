"""Shards: what is written is what is read, by us and by WebDataset; whatever is wrong is named."""

import errno
import gc
import io
import json
import os
import re
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
import webdataset

from crossmodal import SOURCES
from crossmodal.checkpoint import WriteError
from crossmodal.data import writer
from crossmodal.data.index import Row, Rows, scan
from crossmodal.data.manifest import MANIFEST, ShardError, read_manifest
from crossmodal.data.shards import Shards
from crossmodal.data.verify import check
from crossmodal.data.writer import write_shards
from crossmodal.sources import Pair
from modalities import MODALITIES
from modalities.common.random import generator


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


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing member": (
        lambda shard: rewrite(shard, lambda m: [x for x in m if x[0] != first(m, "depth.png")]),
        r"000001\.tar: pair '\S+' is missing its 'depth.png'",
    ),
    "unreadable": (
        lambda shard: rewrite(
            shard, lambda m: [(n, b"not a picture") if n == first(m, "rgb.jpg") else (n, p) for n, p in m]
        ),
        r"000001\.tar: pair '\S+' has an unreadable 'rgb.jpg': ",
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
        r"000001\.tar: pair '\S+' is truncated inside '\S+'; the file ends at byte \d+",
    ),
    "zero bytes": (
        lambda shard: rewrite(shard, lambda m: [(m[0][0], b""), *m[1:]]),
        r"000001\.tar: pair '\S+' has an empty member '\S+' \(zero bytes\)",
    ),
    "label cut off": (
        lambda shard: rewrite(shard, with_facts(b'{"label": ')),
        r"000001\.tar: pair '\S+' has an unreadable 'json': json must be an object with a whole 'label' from -1 to 7",
    ),
    "label of no class": (
        lambda shard: rewrite(shard, with_facts(b'{"label": 99}')),
        r"000001\.tar: pair '\S+' has an unreadable 'json': json must be an object with a whole 'label' from -1 to 7",
    ),
    "fact that is not finite": (
        lambda shard: rewrite(shard, with_facts(b'{"label": 0, "pose": [1, NaN]}')),
        r"000001\.tar: pair '\S+' has an unreadable 'json': a number must be finite, got NaN",
    ),
    "not a tar": (
        lambda shard: shard.write_bytes(b"not a tar" * 200),
        r"000001\.tar: not a readable tar",
    ),
    "missing shard": (lambda shard: shard.unlink(), r"000001\.tar: missing, though the manifest lists it"),
    "changed byte": (
        lambda shard: shard.write_bytes(flipped(shard.read_bytes())),
        r"000001\.tar: its bytes changed since it was written",
    ),
}


def first(members: list[tuple[str, bytes]], ending: str) -> str:
    return next(name for name, _ in members if name.endswith(ending))


def with_facts(payload: bytes) -> Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]:
    """Every pair's JSON member as given."""
    return lambda members: [(name, payload if name.endswith(".json") else was) for name, was in members]


def flipped(content: bytes) -> bytes:
    return content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_names_each_damage(folder: Path, damage: str) -> None:
    hurt, words = DAMAGES[damage]
    hurt(folder / "000001.tar")
    problems = "\n".join(check(folder))
    assert re.search(words, problems), problems


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", r"000001\.tar must have \d+ bytes by its manifest, got \d+; see crossmodal shards --check"),
        ("not a tar", r"000001\.tar must have \d+ bytes by its manifest, got 1800; see crossmodal shards --check"),
        ("missing shard", r"000001\.tar is missing, though"),
    ],
)
def test_a_shard_that_is_damaged_as_a_whole_is_refused_by_its_size(folder: Path, damage: str, words: str) -> None:
    DAMAGES[damage][0](folder / "000001.tar")
    shards = Shards.open(folder)
    shards.read(0, ["rgb.jpg"])  # the shard before it is sound
    for index in (25, 30, 49):
        with pytest.raises(ShardError, match=words):
            shards.read(index, ["rgb.jpg"])


@pytest.mark.parametrize("name", ["rgb.jpg", "depth.png", "json"])
def test_a_changed_byte_is_refused_by_pair_and_member_and_costs_no_other(
    folder: Path, synthetic: Path, name: str
) -> None:
    path, row = Shards.open(folder).locate(30)
    content = bytearray(path.read_bytes())
    content[row.members[name][0] + row.members[name][1] // 2] ^= 1
    path.write_bytes(content)
    shards, sound = Shards.open(folder), Shards.open(synthetic / "train")
    with pytest.raises(ShardError, match=rf"000001\.tar: pair '{row.key}', {name}: its bytes changed since"):
        shards.read(30, [name])
    for index in (29, 31):
        assert shards.read(index, [name]) == sound.read(index, [name])


def to_earlier(folder: Path) -> None:
    """Makes the folder one of the format before there were indexes."""
    content = json.loads((folder / MANIFEST).read_text()) | {"format": "crossmodal-shards/1"}
    for shard in content["shards"]:
        del shard["index"]
    (folder / MANIFEST).write_text(json.dumps(content))
    for path in folder.glob("*.index.npy"):
        path.unlink()


def test_an_earlier_folder_has_the_same_digest_and_its_shards_are_compared_by_sha256(
    folder: Path, synthetic: Path
) -> None:
    to_earlier(folder)
    shards, sound = Shards.open(folder), Shards.open(synthetic / "train")
    assert shards.manifest.digest == sound.manifest.digest
    assert [shards.read(i, ["rgb.jpg"]) for i in range(96)] == [sound.read(i, ["rgb.jpg"]) for i in range(96)]
    DAMAGES["changed byte"][0](folder / "000001.tar")
    again = Shards.open(folder)
    again.read(0, ["rgb.jpg"])
    with pytest.raises(ShardError, match=r"000001\.tar: its bytes changed since it was written"):
        again.read(30, ["rgb.jpg"])


def test_an_index_that_changed_is_refused_and_named_by_check(folder: Path) -> None:
    path = folder / "000001.index.npy"
    path.write_bytes(flipped(path.read_bytes()))
    with pytest.raises(ShardError, match=r"000001\.index\.npy is not the index that was written"):
        Shards.open(folder).read(30, ["rgb.jpg"])
    assert any("000001.index.npy: its bytes changed" in problem for problem in check(folder))


def test_a_header_with_a_negative_size_ends_the_scan(folder: Path) -> None:
    path = folder / "000001.tar"
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" * 10 + (2**16 - 1024).to_bytes(2, "big")  # base 256: -1024
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    problems = scan(path)[1]
    assert len(problems) == 1 and "a size of -1024 bytes" in problems[0]


@pytest.mark.parametrize(("change", "words"), [
    ({"pairs": float("nan")}, "must be finite, got NaN"),
    ({"pairs": -1}, "pairs must be a whole number from 0"),
    ({"pairs": 10**30}, "pairs must be a whole number from 0"),
    ({"pairs": True}, "pairs must be a whole number from 0"),
    ({"classes": None}, "classes must be a list, got None"),
    ({"classes": ["\ud800"]}, r"classes\.0 must be text in Unicode"),
    ({"labels": {"a": "1"}}, r"labels\.a must be a whole number"),
    ({"lacking": []}, "lacking must be a mapping"),
    ({"statistics": {}}, "statistics lack the field"),
    ({"other": 1}, "'other' is not known"),
    ({"shards": [{"file": "../other/x.tar", "pairs": 96, "bytes": 1, "sha256": ""}]}, "file of a shard must be"),
    ({"shards": 2 * [{"file": "x.tar", "pairs": 48, "bytes": 10**6, "sha256": ""}]}, "must be different files"),
])  # fmt: skip
def test_a_manifest_is_checked_for_types_and_ranges(folder: Path, change: dict[str, object], words: str) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, **change}))
    with pytest.raises(ShardError, match=rf"manifest\.json is not a manifest: .*{words}"):
        Shards.open(folder)


def test_a_manifest_that_is_nested_too_deeply_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ShardError, match=r"manifest\.json is not a manifest: it is nested too deeply"):
        Shards.open(folder)


def test_what_is_read_does_not_depend_on_how_many_shards_may_be_open(
    folder: Path, synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shards, "_most_open", 2)
    shards, sound = Shards.open(folder), Shards.open(synthetic / "train")
    for index in (0, 30, 60, 90, 1, 31, 61, 91):
        assert shards.read(index, ["rgb.jpg"]) == sound.read(index, ["rgb.jpg"])
        assert len(shards._descriptors) <= 2


def test_what_is_let_go_is_closed(folder: Path) -> None:
    count = lambda: len([*Path("/proc/self/fd").iterdir()])  # noqa: E731
    gc.collect()  # what earlier tests have left
    before = count()
    shards = Shards.open(folder)
    assert all(shards.read(index, ["json"]) for index in range(96)) and count() == before + 4
    del shards
    gc.collect()
    assert count() == before


@pytest.mark.parametrize(("name", "code", "words"), [
    ("open", errno.EMFILE, "000001.tar cannot be opened: Too many open files"),
    ("pread", errno.EIO, "000001.tar cannot be read: Input/output error"),
])  # fmt: skip
def test_what_the_system_does_not_give_names_the_shard(
    folder: Path, name: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards.open(folder)
    shards.locate(30)
    monkeypatch.setattr(os, name, mock.Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(ShardError, match=words):
        shards.read(30, ["rgb.jpg"])


def test_the_shard_used_longest_ago_is_closed_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shards, "_most_open", 2)
    shards = Shards.open(folder)
    for index in (0, 30, 1, 60):
        shards.read(index, ["rgb.jpg"])
    assert list(shards._descriptors) == [0, 2]


def test_an_indexed_pair_takes_100_bytes_and_is_what_was_packed() -> None:
    rows = [
        Row(f"pair-{number:06d}", dict.fromkeys(("rgb.jpg", "depth.png", "json"), (2**33 + number, 4096)))
        for number in range(1000)
    ]
    rows[7] = Row("odd", {"json": (5, 6)}, ["has an empty member 'json' (zero bytes)"])
    packed = Rows.pack(rows)
    assert [packed[number] for number in range(1000)] == rows
    assert packed.table.nbytes < 100 * 1000


@pytest.mark.parametrize("payload", [b"{", b"[]", b"7", b"{}", b'{"label": "1"}', b'{"label": 1.0}', b'{"label": true}',
                                     b'{"label": null}', b'{"label": 8}', b'{"label": -2}', b"\xff"])  # fmt: skip
def test_facts_without_a_label_of_the_classes_are_refused(synthetic: Path, payload: bytes) -> None:
    shards = Shards.open(synthetic / "train")
    words = r"000000\.tar: pair '\S+': json must be an object with a whole 'label' from -1 to 7, got b"
    with pytest.raises(ShardError, match=words):
        shards.parse(0, payload)
    assert shards.parse(0, b'{"label": 7}') == {"label": 7}
    assert shards.parse(0, b'{"label": -1}') == {"label": -1}


def test_without_classes_any_label_will_do(synthetic: Path) -> None:
    shards = Shards(synthetic / "train", replace(read_manifest(synthetic / "train"), classes=[]))
    assert shards.parse(0, b'{"label": 99}') == {"label": 99}
    with pytest.raises(ShardError, match="whole 'label' from -1 up, got"):
        shards.parse(0, b'{"label": -2}')


def test_check_names_a_modality_that_is_not_known(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["fields"]["depth"]["modality"] = "sonar"
    (folder / MANIFEST).write_text(json.dumps(content))
    assert check(folder) == [f"{folder / MANIFEST}: field 'depth' is of modality 'sonar', which is not known"]


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


def test_a_folder_of_parts_names_them(synthetic: Path) -> None:
    with pytest.raises(
        ShardError, match=rf"{synthetic} holds the shards of test, train: name one .* {synthetic}/train$"
    ):
        Shards.open(synthetic)


def test_a_manifest_of_another_format_is_refused(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": "other/9"}))
    with pytest.raises(ShardError, match="format must be 'crossmodal-shards/2', got 'other/9'"):
        Shards.open(folder)


def test_a_manifest_whose_pairs_are_not_its_shards_is_refused(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "pairs": 100}))
    with pytest.raises(ShardError, match=r"manifest.json .*pairs must be the sum of its shards', 96, got 100"):
        Shards.open(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe\xff", b"{", b"[]", b"{}", b'{"format": "crossmodal-shards/1"}'])
def test_bytes_that_are_no_manifest_are_refused_by_path(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ShardError, match=re.escape(f"{folder / MANIFEST} is not a manifest: ")):
        Shards.open(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, a disk without room")
@pytest.mark.parametrize("size", [100, 100_000])  # the second is more than is held back until the tar is closed
def test_a_full_disk_is_named_with_shard_and_pair(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    modality = MODALITIES.get("audio")()
    pair = Pair("a", {"audio.flac": modality.encode(torch.rand(1, size, generator=generator(0)) - 0.5)})
    full = lambda path: path.symlink_to("/dev/full") or webdataset.TarWriter(str(path), encoder=False)  # noqa: E731
    monkeypatch.setattr(writer, "open_tar", full)
    with pytest.raises(WriteError, match=r"could not write .*000000\.tar: pair 'a': No space left.*; free space, then"):
        write_shards(pairs_of(pair), tmp_path, fields={"audio": modality}, classes=())
    assert not (tmp_path / MANIFEST).exists()


def pairs_of(*made: Pair) -> Iterator[Pair]:
    return iter(made)


def depth_pair(key: str, payload: bytes | None = None, extension: str = "png") -> Pair:
    modality = MODALITIES.get("depth")(size=8)
    return Pair(
        key, {f"depth.{extension}": modality.encode(torch.full((1, 8, 8), 2.0)) if payload is None else payload}
    )


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([depth_pair("a.b")], "key 'a.b' must be of letters, digits"),
        ([depth_pair("a"), depth_pair("a")], "key 'a' appears twice"),
        ([Pair("a", {"rgb.jpg": b"x"})], "pair 'a' has no 'depth'; it has rgb"),
        ([depth_pair("a", extension="jpg")], "pair 'a': depth must be one of png, npy, npz, .*, got 'jpg'"),
        ([depth_pair("a", payload=b"junk")], "pair 'a', field depth.png: "),
        ([replace(depth_pair("a"), facts={"time": float("nan")})], "pair 'a': its facts must be JSON with finite"),
        ([], "no pairs came from the source"),
    ],
)
def test_writing_refuses_bad_pairs(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    fields = {"depth": MODALITIES.get("depth")(size=8)}
    with pytest.raises(ShardError, match=words):
        write_shards(pairs_of(*pairs), tmp_path, fields=fields, classes=())
    assert not (tmp_path / MANIFEST).exists()


def test_unreadable_members_are_named_together_up_to_a_few(tmp_path: Path) -> None:
    fields = {"depth": MODALITIES.get("depth")(size=8)}
    bad = [
        replace(depth_pair(f"b{number}", payload=b"junk"), paths={"depth.png": f"{number}.png"}) for number in (1, 2)
    ]
    with pytest.raises(
        ShardError, match=r"'b1', .*png \(1.png\): .*; pair 'b2', .*png \(2.png\): (?!.*there may be more)"
    ):
        write_shards(pairs_of(depth_pair("a"), bad[0], depth_pair("c"), bad[1]), tmp_path, fields=fields, classes=())
    junk = pairs_of(*(depth_pair(f"b{number}", payload=b"junk") for number in range(9)))
    with pytest.raises(ShardError, match=r"pair 'b4', .*; there may be more$"):
        write_shards(junk, tmp_path, fields=fields, classes=())
    assert [pair.key for pair in junk] == ["b5", "b6", "b7", "b8"] and not (tmp_path / MANIFEST).exists()
