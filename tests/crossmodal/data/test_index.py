"""Indexes, manifests and shards: every check that stands between damaged files and a run, one by one."""

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmodal import SOURCES
from crossmodal.data import index
from crossmodal.data import shards as module
from crossmodal.data.held_out import hold_out, take_pairs
from crossmodal.data.index import Member, index_path, make_index, read_index, read_rows, rows_of, scan, seal
from crossmodal.data.manifest import (
    MANIFEST,
    Field,
    Manifest,
    Shard,
    ShardError,
    check_files,
    parse_facts,
    read_manifest,
    to_json,
)
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards


def pack(path: Path, *members: tuple[str, bytes], folders: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for name, payload in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(payload)
            tar.addfile(entry, io.BytesIO(payload))
    return path


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return pack(tmp_path / "a.tar", ("a.x", b"12345"), ("a.json", b"{}"), ("b.x", b"6"), ("b.json", b"[]"))


def table(*rows: tuple[Any, ...], kind: str = "<i8") -> bytes:
    content, columns = io.BytesIO(), [("name", "S9"), ("offset", kind), ("size", kind), ("crc32", kind)]
    np.save(content, np.array([*rows], dtype=columns))
    return content.getvalue()


def test_an_index_tells_where_each_member_lies_and_its_checksum(tar: Path) -> None:
    (rows, problems), content = read_rows(tar, make_index(tar), tar.stat().st_size), tar.read_bytes()
    assert problems == [] and [rows[number].key for number in range(len(rows))] == ["a", "b"]
    assert [
        {name: content[offset:][:size] for name, (offset, size) in rows[number].members.items()} for number in range(2)
    ] == [{"x": b"12345", "json": b"{}"}, {"x": b"6", "json": b"[]"}]
    assert rows[0].sums == {"x": 0xCBF53A1C, "json": zlib.crc32(b"{}")}  # the first as any other program computes it
    assert [(row.key, row.members) for row in scan(tar)[0]] == [
        (row.key, row.members) for row in map(rows.__getitem__, (0, 1))
    ]


def test_an_index_is_a_table_that_numpy_reads(tmp_path: Path) -> None:
    members = [("b-1.json", b'{"label": 3, "group": "hall"}'), ("b-1.x", b"6"), ("a.x", b"7"), ("a.cls", b" 2\n")]
    path = pack(tmp_path / "a.tar", *members, ("c.json", b'{"group": 7}'))
    table = np.load(io.BytesIO(make_index(path)), allow_pickle=False)
    assert table.dtype.names == ("key", "label", "group", "json", "x", "cls")
    assert table[["key", "label", "group"]].tolist() == [(b"b-1", 3, b"hall"), (b"a", 2, b""), (b"c", -1, b"7")]
    assert table["x"]["size"].tolist() == [1, 1, -1] and table["x"]["crc32"][1] == zlib.crc32(b"7")


@pytest.mark.parametrize(("members", "words"), [
    ([("a.json", b'{"label": "two"}')], r"pair 'a': its label must be a whole number from -1, got 'two'"),
    ([("a.json", b'{"label": true}')], r"pair 'a': its label must be a whole number from -1, got 'True'"),
    ([("a.cls", b"cat")], r"pair 'a': its label must be a whole number from -1, got 'cat'"),
    ([("a.json", b"{")], "pair 'a': "),
    ([("a.json", b'{"group": [1]}')], "pair 'a': json: group must be text"),
    ([("a.x", b"1"), ("a.x", b"2")], "pair 'a' has a duplicated member 'x'"),
    ([("a.x", b"1"), ("b.x", b"1"), ("a.y", b"2")], "pair 'a' is interleaved"),
    ([("a." + "k" * 90, b"1")] * 0 + [(f"a.m{number}", b"1") for number in range(257)], "at most 256 names other than"),
    ([("a.key", b"1")], "names other than key, label and group"),
])  # fmt: skip
def test_a_tar_that_no_index_can_describe_is_refused(tmp_path: Path, members: list[Any], words: str) -> None:
    with pytest.raises(ShardError, match=words):
        make_index(pack(tmp_path / "a.tar", *members))


def earlier_index(path: Path) -> bytes:
    """The index of a tar as earlier versions wrote it: a row for every member."""
    content, rows = path.read_bytes(), scan(path)[0]
    members = [(f"{row.key}.{name}", *span, zlib.crc32(content[span[0] :][: span[1]])) for row in rows
               for name, span in row.members.items()]  # fmt: skip
    file = io.BytesIO()
    np.save(file, np.array(members, [("name", "S40"), ("offset", "<i8"), ("size", "<i8"), ("crc32", "<u4")]))
    return file.getvalue()


def to_earlier(folder: Path) -> Path:
    content = json.loads((folder / MANIFEST).read_text())
    for shard in content["shards"]:
        path = index_path(folder / shard["file"])
        path.write_bytes(earlier_index(folder / shard["file"]))
        shard["index"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def test_an_index_of_an_earlier_version_reads_the_same_pairs(synthetic: Path, folder: Path) -> None:
    before, after = Shards.open(to_earlier(folder)), Shards.open(synthetic / "train")
    assert before.labels().tolist() == after.labels().tolist() and -1 not in before.labels()
    assert before.groups() == after.groups()
    for place in (0, 30, 95):
        assert before.read(place, ["rgb.jpg", "json"]) == after.read(place, ["rgb.jpg", "json"])
        assert before.facts(place) == after.facts(place) and before.locate(place)[1].sums
    row, other = before.locate(40)[1], after.locate(40)[1]
    assert (row.members, row.sums, row.label) == (other.members, other.sums, other.label)


def test_labels_and_groups_of_all_pairs_come_from_indexes_alone(grouped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards.open(grouped)
    facts = [shards.facts(index) for index in range(96)]
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("a pair was read"))
    parts = [Shards.open(grouped), *hold_out(Shards.open(grouped), 0.3)]
    for part in parts:
        places = range(96) if part.places is None else part.places.tolist()
        assert part.labels().tolist() == [facts[place]["label"] for place in places]
        assert part.groups() == [facts[place]["group"] for place in places]


def test_a_pair_without_json_is_read_with_the_label_of_its_index(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ("a.x", bytes(2000)), ("a.cls", b"1"), ("b.x", bytes(2000)))
    shard = seal(path, 2)
    shards = Shards(tmp_path, Manifest(2, ["k", "l"], {"x": Field("rgb", "jpg", {})}, [shard], {"x": {}}, {"l": 1}))
    assert shards.labels().tolist() == [1, -1]
    assert shards.facts(0) == {"label": 1, "group": ""} and shards.facts(1) == {"label": -1, "group": ""}


def test_a_label_that_is_no_class_is_refused_with_its_index(tmp_path: Path) -> None:
    shard = seal(pack(tmp_path / "a.tar", ("a.x", b"1"), ("a.cls", b"2")), 1)
    shards = Shards(tmp_path, Manifest(1, ["k", "l"], {}, [shard], {}, {"l": 1}))
    with pytest.raises(ShardError, match=r"a\.index\.npy: pair 'a' must have a label from -1 to 1, got 2"):
        shards.labels()


def test_an_unreadable_pair_without_index_is_named_or_unlabelled(folder: Path) -> None:
    path, row = Shards.open(to_earlier(folder)).locate(3)
    content = bytearray(path.read_bytes())
    content[row.members["json"][0]] ^= 1
    path.write_bytes(content)
    shards = Shards.open(folder)
    with pytest.raises(ShardError, match=f"pair '{row.key}', json: its bytes changed"):
        shards.labels()
    labels = shards.labels(strict=False)
    assert labels[3] == -1 and (labels >= 0).sum() == 95
    assert -1 not in take_pairs(shards, [0, 1, 2, 4]).labels()


def test_indexes_in_memory_have_a_limit_and_the_least_used_go_first(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards.open(synthetic / "train")
    shards.locate(0)
    monkeypatch.setattr(module, "INDEX_BYTES", 2 * shards._rows.bytes)
    for place in (30, 0, 60):
        shards.locate(place)
    assert [*shards._rows.rows] == [0, 2] and shards._rows.bytes <= module.INDEX_BYTES
    monkeypatch.setattr(module, "INDEX_BYTES", 1)
    keys = [shards.locate(index)[1].key for index in (0, 30, 0)]
    assert keys[0] == keys[2] != keys[1] and [*shards._rows.rows] == [0]


def test_more_groups_than_a_manifest_lists_are_counted(grouped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards.open(grouped)
    count = len(set(shards.groups()) - {""})
    monkeypatch.setattr("crossmodal.data.manifest.MOST_GROUPS", count - 1)
    part = take_pairs(shards, range(len(shards)))
    assert part.manifest.groups == {} and part.manifest.unlisted_groups == part.manifest.number_of_groups == count
    assert part.groups() == shards.groups()
    assert "unlisted_groups" in to_json(part.manifest) and "unlisted_groups" not in to_json(shards.manifest)


def test_folders_in_a_tar_are_no_members(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ("d/a.x", b"1"), folders=("d",))
    rows, problems = read_rows(path, make_index(path), path.stat().st_size)
    assert problems == [] and [rows[number].members.keys() for number in range(len(rows))] == [{"x"}]


def test_no_index_is_made_of_a_tar_that_is_cut(tar: Path) -> None:
    content = tar.read_bytes()
    tar.write_bytes(content[:700])
    with pytest.raises(ShardError, match=r"a\.tar: not a readable tar \("):
        make_index(tar)
    with pytest.raises(ShardError, match=r"a\.tar: not a readable tar"):
        seal(tar, 2)
    assert not index_path(tar).exists()


def test_a_header_cannot_ask_for_more_memory_than_headers_take(tar: Path) -> None:
    content = bytearray(tar.read_bytes())
    content[156:157] = b"L"  # a long name follows
    content[124:136] = b"%011o\0" % (1 << 32)  # of 4 GiB
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    tar.write_bytes(content)
    assert scan(tar) == ([], [f"{tar}: not a readable tar (a header must have 0 to {1 << 20} bytes, got {1 << 32})"])


def test_a_header_must_lie_where_files_can_end(tar: Path) -> None:
    with tar.open("rb") as file:
        headers = index._Headers(file)
        for offset in (-1, 1 << 63):
            with pytest.raises(tarfile.ReadError, match=f"a header must lie in the file, got byte {offset}"):
                headers.seek(offset)
        assert headers.seek(3) == headers.tell() == 3


@pytest.mark.parametrize(("payload", "words"), [
    (table(("a.x", -1, 1, 1)), "whole numbers from 0"),
    (table(("a.x", 1, -1, 1)), "whole numbers from 0"),
    (table(("a.x", 1, 1, 0.5), kind="<f8"), "whole numbers from 0"),
    (b"no array", "not a table of name, offset"),
    (table()[:60], "not a table of name, offset"),
    (pickle.dumps(1), "not a table of name, offset"),
])  # fmt: skip
def test_what_is_no_index_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_index(payload)
    with pytest.raises(ValueError, match=words.replace("name, offset", ".*")):
        read_rows(Path("a.tar"), payload, 10)


@pytest.mark.parametrize("span", [
    (-1, 1, 1), (2**62 + 1, 1, 1), (1, -2, 1), (1, 2**62 + 1, 1), (9, 2, 1), (9, 0, 1), (9, 1, 1)
])  # fmt: skip
def test_a_place_that_no_tar_can_have_is_refused_or_is_in_its_row(span: tuple[int, ...]) -> None:
    payload = io.BytesIO()
    np.save(payload, np.array([(b"a", 0, b"", span)], [("key", "S1"), *index.FACTS, ("x", index.SPAN)]))
    if span[0] == 9:
        rows, problems = read_rows(Path("a.tar"), payload.getvalue(), 10)
        assert problems == [] and bool(rows[0].problems) == (span != (9, 1, 1))
        return
    with pytest.raises(ValueError, match="whole numbers from 0"):
        read_rows(Path("a.tar"), payload.getvalue(), 10)


@pytest.mark.parametrize("columns", [
    [("key", "S1"), *index.FACTS, ("x", "<i8")],
    [("key", "<i8"), *index.FACTS],
    [("key", "S1"), ("label", "<f8"), ("group", "S1")],
    [("key", "S1"), ("group", "S1"), ("label", "<i4")],
    [("key", "S1")],
])  # fmt: skip
def test_a_table_of_other_columns_is_no_index(columns: list[Any]) -> None:
    payload = io.BytesIO()
    np.save(payload, np.zeros(1, columns))
    with pytest.raises(ValueError, match="it is not a table of key, label, group and members: got columns"):
        read_rows(Path("a.tar"), payload.getvalue(), 10)


@pytest.mark.parametrize(("members", "words"), [
    ([("a.x", 0, 1), ("a.x", 1, 1)], "has a duplicated member 'x'"),
    ([("a.x", 0, 0)], "has an empty member 'x'"),
    ([("a.x", 9, 2)], "is truncated inside 'x'; the file ends at byte 10"),
    ([("a.x", 9, 1)], None),
])  # fmt: skip
def test_what_is_wrong_with_a_row_is_in_it(members: list[tuple[str, int, int]], words: str | None) -> None:
    (row,), problems = rows_of(Path("t"), [Member(*member) for member in members], 10)
    assert problems == [] and (row.problems == [] if words is None else words in row.problems[0])


def test_a_pair_whose_members_lie_apart_is_named(tmp_path: Path) -> None:
    _, problems = rows_of(Path("t"), [Member(name, 0, 1) for name in ("a.x", "b.x", "a.y")], 10)
    assert problems == ["t: pair 'a' is interleaved: 'y' is separated from its other members"]


def test_a_tar_that_ends_in_the_padding_of_its_last_member_is_cut_short(tar: Path) -> None:
    content = tar.read_bytes()
    tar.write_bytes(content[: content.index(b"b.x") + 513])
    rows, problems = scan(tar)
    assert problems == [] and [len(row.problems) for row in rows] == [0, 1]
    assert rows[1].problems[0].startswith("is cut short (")
    tar.write_bytes(b"\xff" * 512 + content[512:])
    rows, problems = scan(tar)
    assert rows == [] and "not a readable tar (" in problems[0]


MADE = Manifest(3, ["k"], {"x": Field("rgb", "jpg", {})}, [Shard("a.tar", 3, 9, "1" * 64, "2" * 64)], {"x": {}})


def told(**changes: Any) -> dict[str, Any]:
    """A manifest's content."""
    shard = {"file": "a.tar", "pairs": 3, "bytes": 9000, "sha256": "", "index": ""}
    field = {"modality": "rgb", "extension": "jpg", "stored": {}}
    return {"pairs": 3, "classes": ["k"], "fields": {"x": field}, "shards": [shard], "statistics": {"x": {}},
            "labels": {"k": 3}, "groups": {}, "lacking": {}, "format": "crossmodal-shards/2", **changes}  # fmt: skip


def field(name: str, extension: str) -> dict[str, Any]:
    spec = {"modality": "rgb", "extension": extension, "stored": {}}
    return {"fields": {name: spec}, "statistics": {name: {}}}


@pytest.mark.parametrize(("changes", "words"), [
    ({"pairs": 4}, "pairs must be the sum of its shards', 3, got 4"),
    (field("x.y", "jpg"), "fields must have names"),
    (field("x/y", "jpg"), "fields must have names"),
    (field("x", "../a"), "fields must have names"),
    (field("x", "a\x1b[2J"), "fields must have names"),
    (field("", "jpg"), "fields must have names"),
    ({"statistics": {"y": {}}}, "statistics lack the field 'x'"),
    ({"lacking": {"y": 1}}, "lacking must name fields, got 'y'"),
    ({"labels": {"l": 1}}, "labels must name classes, got 'l'"),
])  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(told()))
    assert read_manifest(tmp_path).pairs == 3
    (tmp_path / MANIFEST).write_text(json.dumps(told(**changes)))
    with pytest.raises(ShardError, match=words):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../a.tar", "/a.tar", "b\\a.tar", "", ".", "..", "a\n.tar", "a\x1b[2J.tar", "\x00"])
def test_a_shard_is_a_file_of_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="file of a shard must be the name of a file in the same folder"):
        check_files([Shard(name, 1, 1, "")])
    check_files([Shard("a.tar", 1, 1024, ""), Shard("b c..tar", 1, 1024, "")])
    with pytest.raises(ValueError, match=r"shards must be different files, got 'a\.tar' twice"):
        check_files([Shard("a.tar", 1, 1024, ""), Shard("a.tar", 2, 2048, "")])


def test_the_digest_names_what_decides_the_data_and_nothing_else() -> None:
    others = [
        replace(MADE, classes=["l"]),
        replace(MADE, fields={"x": Field("rgb", "jpg", {"scale_m": 2.0})}),
        replace(MADE, fields={"x": Field("luminance", "jpg", {})}),
        replace(MADE, shards=[replace(MADE.shards[0], sha256="3" * 64)]),
        replace(MADE, shards=[*MADE.shards, *MADE.shards]),
    ]
    assert len({MADE.digest, *(other.digest for other in others)}) == 6
    alike = replace(MADE, statistics={"x": {"mean": 1.0}}, shards=[replace(MADE.shards[0], index="", file="b.tar")])
    assert alike.digest == MADE.digest


@pytest.mark.parametrize(("facts", "words"), [
    ({"label": 2}, "a whole 'label' from -1 to 1"),
    ({"label": -2}, "a whole 'label' from -1 to 1"),
    ({"label": True}, "a whole 'label' from -1 to 1"),
    ({"label": 1.0}, "a whole 'label' from -1 to 1"),
    ({}, "a whole 'label' from -1 to 1"),
    ([], "a whole 'label' from -1 to 1"),
    ({"label": 0, "group": ["a"]}, "json: group must be text"),
    ({"label": 0, "group": "\ud800"}, "json: group must be text"),
    ({"label": 0, "pose": float("nan")}, "^a number must be finite, got NaN"),
])  # fmt: skip
def test_facts_are_checked(facts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_facts(json.dumps(facts).encode(), 2)
    assert parse_facts(b'{"label": 7, "group": 3}', 0) == {"label": 7, "group": 3}


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    """96 pairs in 6 groups; the first 5 pairs have none."""
    source = SOURCES.get("synthetic")(modalities=("rgb",), train_pairs=96, test_pairs=0, size=8)
    pairs = (
        replace(pair, group=f"room {place // 20}" if place > 4 else "")
        for place, pair in enumerate(source.pairs("train"))
    )
    write_shards(pairs, tmp_path, fields=source.fields(), classes=source.classes(), pairs_per_shard=25)
    return tmp_path


@pytest.fixture
def folder(synthetic: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(synthetic / "train", tmp_path / "train"))


def test_a_file_that_shrinks_while_it_is_open_is_named(folder: Path) -> None:
    shards = Shards.open(folder)
    shards.read(0, ["rgb.jpg"])
    path, row = shards.locate(24)
    os.truncate(path, row.members["rgb.jpg"][0] + 3)
    with pytest.raises(ShardError, match=r"000000\.tar: pair '\w+', rgb.jpg: the file ends inside it"):
        shards.read(24, ["rgb.jpg"])


def test_members_are_compared_once_and_then_taken_as_they_are(folder: Path) -> None:
    shards = Shards.open(folder)
    path, row = shards.locate(3)
    content = bytearray(path.read_bytes())
    content[row.members["json"][0]] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ShardError, match="its bytes changed since"):
            shards.compare_once(3, ["json"])
    content[row.members["json"][0]] ^= 1
    path.write_bytes(content)
    shards.compare_once(3, ["json"])
    path.write_bytes(bytes(len(content)))
    shards.compare_once(3, ["json"])  # of this process: it was right
    with pytest.raises(ShardError, match="its bytes changed since"):
        shards.compare_once(4, ["json"])


def test_where_no_more_files_may_be_open_the_oldest_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, opened = Shards.open(folder), os.open
    shards.read(0, ["json"])
    tries: list[int] = []

    def refuse(path: Any, flags: int) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    shards.read(30, ["json"])
    assert len(tries) == 2 and len(shards._descriptors) == 1


def test_a_shard_of_other_pairs_than_its_manifest_says_is_refused(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["shards"][0]["pairs"] -= 1
    content["pairs"] -= 1
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"000000\.tar must hold 24 pairs by its manifest, got 25"):
        Shards.open(folder).read(0, ["json"])


def test_an_index_that_is_the_manifest_s_but_no_table_is_named(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    index_path(folder / "000000.tar").write_bytes(b"text")
    content["shards"][0]["index"] = hashlib.sha256(b"text").hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"000000\.index\.npy: it is not a table .*; see crossmodal shards --check"):
        Shards.open(folder).read(0, ["json"])


def test_a_shard_whose_index_is_gone_is_compared_whole(folder: Path) -> None:
    index_path(folder / "000000.tar").unlink()
    assert Shards.open(folder).read(0, ["json"])
    content = bytearray((folder / "000000.tar").read_bytes())
    content[-1] ^= 1
    (folder / "000000.tar").write_bytes(content)
    with pytest.raises(ShardError, match="its bytes changed since it was written"):
        Shards.open(folder).read(0, ["json"])


def test_a_pair_that_is_interleaved_costs_its_shard_and_all_problems_are_counted(folder: Path) -> None:
    members = [Member(name, 0, 1) for name in ("a.x", "b.x", "a.y", "b.y")]
    content, path = json.loads((folder / MANIFEST).read_text()), index_path(folder / "000000.tar")
    rows = [(member.name, member.offset, member.size, 0) for member in members]
    path.write_bytes(table(*rows))
    content["shards"][0]["index"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"pair 'a' is interleaved: .* \(and 1 more; see crossmodal shards --check"):
        Shards.open(folder).read(0, ["json"])


def test_open_files_do_not_travel_to_other_processes(folder: Path) -> None:
    shards = Shards.open(folder)
    shards.read(0, ["json"])
    copied = pickle.loads(pickle.dumps(shards))
    assert shards._descriptors and not copied._descriptors
    assert copied.read(30, ["json"]) == shards.read(30, ["json"])
