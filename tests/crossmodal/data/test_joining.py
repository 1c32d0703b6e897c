"""Packing in parts: the bytes of one process, nothing finished is packed again, and nothing incomplete is joined."""

import itertools
import json
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossmodal import SOURCES
from crossmodal.data import joining
from crossmodal.data.index import index_path
from crossmodal.data.joining import Packing, hash_texts, join_parts, remove_marks
from crossmodal.data.manifest import MANIFEST, ShardError, read_manifest
from crossmodal.data.moments import Moments
from crossmodal.data.processes import write_by
from crossmodal.data.writer import write_part, write_shards
from crossmodal.sources import Pair, Source, SourceError
from modalities.codecs.raster import write_pixels

PAIRS, PER_SHARD = 30, 4  # 8 shards, the last with 2 pairs


@pytest.fixture(scope="module")
def source() -> Source:
    return SOURCES.get("synthetic")(modalities=("rgb", "audio"), train_pairs=PAIRS, test_pairs=0, size=8)


@pytest.fixture(scope="module")
def made(source: Source) -> list[Pair]:
    """Some lack their sound, some have a group, one has no label."""
    pairs = []
    for number, pair in enumerate(source.pairs("train")):
        members = {name: payload for name, payload in pair.members.items() if number % 7 or name != "audio.flac"}
        label = -1 if number == 5 else pair.label
        pairs.append(replace(pair, members=members, label=label, group=f"room {number // 9}" * (number > 3)))
    return pairs


Wanted = Callable[[int], bool]


def numbered(pairs: list[Pair], wanted: Wanted) -> Iterator[tuple[int, Pair]]:
    return ((number, pair) for number, pair in enumerate(pairs) if wanted(number))


def packing(folder: Path, source: Source, **options: Any) -> Packing:
    given = {"pairs_per_shard": PER_SHARD, "partial": True, "origin": "here", **options}
    return Packing(folder, source.fields(), source.classes(), **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(source: Source, made: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_shards(iter(made), folder, fields=source.fields(), classes=source.classes(), pairs_per_shard=PER_SHARD,
                 partial=True)  # fmt: skip
    return folder


def test_the_manifest_counts_what_was_packed(whole: Path, made: list[Pair], source: Source) -> None:
    manifest = read_manifest(whole)
    assert (manifest.pairs, len(manifest.shards), manifest.shards[-1].pairs) == (PAIRS, 8, 2)
    labels = [pair.label for pair in made]
    assert manifest.labels == {
        name: labels.count(label) for label, name in enumerate(source.classes()) if label in labels
    }
    groups = [pair.group for pair in made if pair.group]
    assert manifest.groups == {name: groups.count(name) for name in sorted(set(groups))}
    assert manifest.lacking == {"audio": 5}
    signals = [source.fields()["rgb"].decode(pair.members["rgb.jpg"]) for pair in made]
    values = np.concatenate([signal.double().numpy().ravel() for signal in signals])
    values = values[values != 0]
    assert manifest.statistics["rgb"]["mean"] == pytest.approx(values.mean(), abs=2e-6)
    assert manifest.statistics["rgb"]["std"] == pytest.approx(values.std(), abs=2e-6)
    assert sorted(contents(whole)) == sorted(
        [MANIFEST, *(f"{n:06d}.{kind}" for n in range(8) for kind in ("tar", "index.npy"))]
    )


@pytest.mark.parametrize("parts", [2, 5, 64])
def test_parts_in_any_order_give_the_bytes_of_one(
    parts: int, whole: Path, source: Source, made: list[Pair], tmp_path: Path
) -> None:
    given = packing(tmp_path, source)
    for part in reversed(range(parts)):
        assert write_part(partial(numbered, made), given, part=part, parts=parts) == PAIRS
    assert not (tmp_path / MANIFEST).exists()
    join_parts(given)
    remove_marks(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_processes_of_one_machine_give_the_bytes_of_one(
    whole: Path, source: Source, made: list[Pair], tmp_path: Path
) -> None:
    given, packed = packing(tmp_path, source), []
    write_by(3, partial(numbered, made), given, progress=lambda: packed.append(1))
    assert len(packed) == PAIRS
    join_parts(given)
    remove_marks(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_what_goes_wrong_in_a_process_is_said_by_the_first(source: Source, made: list[Pair], tmp_path: Path) -> None:
    bad = [*made[:20], replace(made[20], members={"rgb.jpg": b"junk"}), *made[21:]]
    with pytest.raises(ShardError, match=rf"^pair '{bad[20].key}', field rgb.jpg: "):
        write_by(2, partial(numbered, bad), packing(tmp_path, source))

    def killed(pairs: list[Pair], wanted: Wanted) -> Iterator[tuple[int, Pair]]:
        yield from numbered(pairs[:6], wanted)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        ShardError, match=r"process \d+, which packed shards, ended with exit code -9; .* memory ran out"
    ):
        write_by(2, partial(killed, made), packing(tmp_path, source))
    with pytest.raises(ShardError, match="holds no finished part"):
        join_parts(packing(tmp_path, source))


def test_no_process_is_left_when_another_has_failed(source: Source, made: list[Pair], tmp_path: Path) -> None:
    def uneven(wanted: Wanted) -> Iterator[tuple[int, Pair]]:
        for number, pair in numbered(made, wanted):
            if number == 0:
                raise SourceError("no such file")
            if number >= PER_SHARD:
                time.sleep(60)
            yield number, pair

    with pytest.raises(SourceError, match=r"^no such file$"):
        write_by(2, uneven, packing(tmp_path, source))
    assert not multiprocessing.active_children()


def test_no_process_outlives_the_first_when_that_is_killed(source: Source, made: list[Pair], tmp_path: Path) -> None:
    alive, held = os.pipe()  # it is at its end once all processes that hold the other end are gone

    def endless(wanted: Wanted) -> Iterator[tuple[int, Pair]]:
        os.write(held, f"{os.getpid()}\n".encode())
        for number in itertools.count():
            if wanted(number):
                time.sleep(0.01)
                yield number, replace(made[0], key=f"pair-{number}")

    first = multiprocessing.get_context("fork").Process(target=write_by, args=(2, endless, packing(tmp_path, source)))
    first.start()
    os.close(held)
    pids, left = b"", b""
    try:
        while pids.count(b"\n") < 2:
            assert select.select([alive], [], [], 20)[0]
            pids += os.read(alive, 100)
        first.kill()
        first.join()
        ended = bool(select.select([alive], [], [], 10)[0])
        left = b"" if ended else pids
        assert ended and os.read(alive, 1) == b""
    finally:
        os.close(alive)
        for pid in left.split():
            os.kill(int(pid), signal.SIGKILL)


def test_sums_of_pieces_are_those_of_the_whole() -> None:
    heights = torch.randn(1, 40, 50, generator=torch.Generator().manual_seed(0))
    heights[:, :3] = 0
    heights[0, 5, 5], heights[0, 6, 6] = -9, 9
    whole, joined = Moments(), Moments()
    whole.add(heights)
    for piece in (heights[:, :3], heights[:, 3:9], heights[:, 9:]):
        part = Moments()
        part.add(piece)
        joined.join(json.loads(json.dumps(part.sums())))
    assert joined.summary() == whole.summary()
    assert (joined.low, joined.high) == (-9, 9)


def test_a_killed_part_continues_with_the_shard_it_was_at(
    whole: Path, source: Source, made: list[Pair], tmp_path: Path
) -> None:
    given, taken = packing(tmp_path, source), []

    def stopped(wanted: Wanted) -> Iterator[tuple[int, Pair]]:
        for number, pair in numbered(made, wanted):
            if number == 18:  # within the third shard of this part
                raise KeyboardInterrupt
            yield number, pair

    with pytest.raises(KeyboardInterrupt):
        write_part(stopped, given, part=0, parts=2)
    assert given.tar(4).is_file() and not given.is_done(4)

    def watched(wanted: Wanted) -> Iterator[tuple[int, Pair]]:
        for number, pair in numbered(made, wanted):
            taken.append(number)
            yield number, pair

    write_part(watched, given, part=0, parts=2)
    assert taken == [16, 17, 18, 19, 24, 25, 26, 27]
    write_part(watched, given, part=1, parts=2)
    join_parts(given)
    remove_marks(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_shard_that_is_gone_or_of_another_source_is_packed_again(
    whole: Path, source: Source, made: list[Pair], tmp_path: Path
) -> None:
    given = packing(tmp_path, source)
    write_part(partial(numbered, made), given)
    given.tar(1).unlink()
    given.tar(2).write_bytes(b"short")
    index_path(given.tar(3)).unlink()
    given.tar(4).with_suffix(".done").write_bytes(b"{")
    assert [number for number in range(8) if not given.is_done(number)] == [1, 2, 3, 4]
    with pytest.raises(ShardError, match=r"000001\.tar is missing or not complete; run the same command again"):
        join_parts(given)
    assert not replace(given, origin="there").is_done(0)
    write_part(partial(numbered, made), given)
    join_parts(given)
    remove_marks(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_part_that_is_missing_or_of_another_source_is_named(source: Source, made: list[Pair], tmp_path: Path) -> None:
    given = packing(tmp_path, source)
    for part in (0, 2):
        write_part(partial(numbered, made), given, part=part, parts=4)
    words = r"part 2 of 4 is missing \(and 1 others: 4\); run crossmodal shards CONFIG --part 2/4$"
    with pytest.raises(ShardError, match=words):
        join_parts(given)
    write_part(partial(numbered, made), given, part=3, parts=4)
    write_part(partial(numbered, made), replace(given, origin="there"), part=1, parts=4)
    other = r"part 2 of 4 was packed from another source or config than this one; run .* --part 2/4$"
    with pytest.raises(ShardError, match=other):
        join_parts(given)
    write_part(partial(numbered, made[:-1]), given, part=1, parts=4)
    with pytest.raises(ShardError, match=other):
        join_parts(given)
    (tmp_path / "part-002-of-004.done").write_text("{")
    with pytest.raises(ShardError, match=r"part-002-of-004\.done is not the mark of a part: .*; delete it, then run"):
        join_parts(given)
    assert not (tmp_path / MANIFEST).exists()


def test_a_key_in_two_shards_is_named_however_few_hashes_are_compared_at_once(
    source: Source, made: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [*made[:-1], replace(made[-1], key=made[2].key)]
    for hashed in (1 << 21, 4):
        monkeypatch.setattr(joining, "HASHED", hashed)
        with pytest.raises(
            ShardError, match=rf"key '{made[2].key}' appears twice .* {tmp_path}/000000\.tar and 000007"
        ):
            write_shards(iter(twice), tmp_path, fields=source.fields(), classes=source.classes(), partial=True,
                         pairs_per_shard=PER_SHARD)  # fmt: skip
    monkeypatch.setattr(joining, "hash_texts", lambda texts: np.zeros(len(texts), dtype=np.uint64))
    write_shards(iter(made), tmp_path, fields=source.fields(), classes=source.classes(), partial=True,
                 pairs_per_shard=PER_SHARD)  # fmt: skip


def test_hashes_do_not_depend_on_the_width_of_the_array_and_are_those_of_the_paper() -> None:
    words = [b"", b"a", b"foobar"]
    for width in (6, 9):
        assert hash_texts(np.array(words, f"S{width}")).tolist() == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C,
                                                                     0x85944171F73967E8]  # fmt: skip


def test_groups_beyond_the_limit_are_counted_alone(
    source: Source, made: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MOST_GROUPS", 2)
    monkeypatch.setattr("crossmodal.data.manifest.MOST_GROUPS", 2)
    monkeypatch.setattr(joining, "HASHED", 10)
    manifest = write_shards(iter(made), tmp_path, fields=source.fields(), classes=source.classes(), partial=True,
                            pairs_per_shard=PER_SHARD)  # fmt: skip
    assert (manifest.groups, manifest.unlisted_groups) == ({}, 4)
    assert json.loads((tmp_path / MANIFEST).read_text())["unlisted_groups"] == 4
    assert read_manifest(tmp_path).has_groups


def test_extensions_that_differ_between_parts_are_refused(source: Source, made: list[Pair], tmp_path: Path) -> None:
    members = {"rgb.png": write_pixels(np.zeros((8, 8, 3), np.uint8), "PNG")}
    other, given = [*made[:4], *(replace(pair, members=members) for pair in made[4:8])], packing(tmp_path, source)
    for part in (0, 1):
        write_part(partial(numbered, other), given, part=part, parts=2)
    with pytest.raises(
        ShardError, match=r"000001\.tar: rgb must have one extension in all pairs, got 'jpg' before and 'png'"
    ):
        join_parts(given)
