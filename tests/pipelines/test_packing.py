"""`crossmodal shards` in parts, and indexes for folders that lack them."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
import yaml

from crossmodal.data.index import index_path, scan
from crossmodal.data.manifest import MANIFEST, read_manifest
from crossmodal.data.reader import open_view, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.verify import check
from modalities.depth import Depth
from modalities.rgb import Rgb
from pipelines.__main__ import main
from pipelines.runs.folder import RunFolder
from pipelines.runs.lock import LOCK, Lock, release_all


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path, source = tmp_path / "my.yaml", {"name": "synthetic", "train_pairs": 10, "test_pairs": 4, "size": 8}
    content = {"source": {**source, "modalities": ["rgb"]}, "pairs_per_shard": 3, "pairing": False}
    path.write_text(yaml.safe_dump({**content, "output": str(tmp_path / "parts")}))
    return path


def packed(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*")}


def test_parts_of_the_command_are_joined_to_what_it_packs_alone(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config), f"output={tmp_path}/alone"]) == 0
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun sets it, whose processes would wait for each other
    monkeypatch.setenv("RANK", "1")
    assert main(["shards", str(config), "--part", "2/2"]) == 0
    assert main(["shards", str(config), "--join"]) == 1
    assert "part 1 of 2 is missing; run crossmodal shards CONFIG --part 1/2" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["shards", str(config), "workers=2", "--part=1/2"]) == 0
    assert not [*(tmp_path / "parts").glob(f"*/{MANIFEST}")]
    assert main(["shards", str(config), "--join"]) == 0
    assert packed(tmp_path / "parts") == packed(tmp_path / "alone")
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert names == {path.name for path in (tmp_path / "alone").iterdir()}
    figures = [json.loads((tmp_path / name / "report.json").read_text())["figures"] for name in ("parts", "alone")]
    assert figures[0] == figures[1]
    capsys.readouterr()
    for action in (["--join"], ["--part", "1/2"], []):
        assert main(["shards", str(config), *action]) == 0
        assert "finished before; nothing to do" in capsys.readouterr().out


def test_a_join_that_fails_at_a_later_split_keeps_the_parts_of_the_earlier(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config), f"output={tmp_path}/alone"]) == 0
    folder = tmp_path / "parts"
    for part in ("1/2", "2/2"):
        assert main(["shards", str(config), "--part", part]) == 0
    marks, before = {*folder.glob("*/*.done")}, packed(folder)
    lost = folder / "test" / "part-002-of-002.done"
    lost.unlink()
    assert main(["shards", str(config), "--join"]) == 1
    assert "part 2 of 2 is missing" in capsys.readouterr().err
    assert {*folder.glob("*/*.done")} == marks - {lost}
    made = (folder / "train" / "000001.tar").stat().st_mtime_ns
    assert main(["shards", str(config), "--part", "2/2"]) == 0
    assert packed(folder) == before and (folder / "train" / "000001.tar").stat().st_mtime_ns == made
    assert main(["shards", str(config), "--join"]) == 0
    assert packed(folder) == packed(tmp_path / "alone")


def test_the_plain_command_goes_on_where_parts_have_stopped(config: Path, tmp_path: Path) -> None:
    assert main(["shards", str(config), "--part", "2/2"]) == 0
    made = tmp_path / "parts" / "train" / "000001.tar"
    time = made.stat().st_mtime_ns
    assert main(["shards", str(config)]) == 0
    assert made.stat().st_mtime_ns == time and read_manifest(made.parent).pairs == 10


def test_another_source_or_size_of_shards_is_refused_for_a_part(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config), "--part", "1/2"]) == 0
    for change, words in (("pairs_per_shard=4", "pairs_per_shard: 3 before, 4 now"), ("source.seed=1", "source.seed")):
        for action in (["--part", "2/2"], ["--join"]):
            assert main(["shards", str(config), change, *action]) == 2
            error = capsys.readouterr().err
            assert "holds another run" in error and words in error


def test_a_part_that_another_run_overtakes_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config), "--part", "1/2"]) == 0
    monkeypatch.setattr(RunFolder, "is_done", lambda _: False)  # as it was a moment before
    assert main(["shards", str(config), "pairs_per_shard=4", "--part", "2/2"]) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "told"), [
    (["--part"], "--part needs K/N"),
    (["--part", "0/2"], "--part must be a number from 1 to the number of parts, such as 3/64, got '0/2'"),
    (["--part", "3/2"], "such as 3/64, got '3/2'"),
    (["--part", "one"], "such as 3/64, got 'one'"),
    (["--part", "1/2", "--join"], "give one of --part, --join"),
    (["--join"], "there is no such folder, so no part of it was packed"),
])  # fmt: skip
def test_a_part_that_cannot_be_is_refused(
    config: Path, words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config), *words]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "parts").exists()


def test_a_part_is_packed_by_one_process_and_joined_by_none_meanwhile(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    others = [Lock(folder, shared=True), Lock(folder, f"{LOCK}.part-1-of-2")]
    assert main(["shards", str(config), "--part", "1/2"]) == 2
    assert main(["shards", str(config), "--join"]) == 2
    assert main(["shards", str(config)]) == 2
    assert capsys.readouterr().err.count("another process is writing here") == 3
    assert main(["shards", str(config), "--part", "2/2"]) == 0
    assert others and release_all() is None


def write_earlier_index(tar: Path) -> str:
    """Writes an index as earlier versions did, with a row for every member; gives its sha256."""
    members = [(f"{row.key}.{name}", *span, 7) for row in scan(tar)[0] for name, span in row.members.items()]
    with index_path(tar).open("wb") as file:
        np.save(file, np.array(members, [("name", "S40"), ("offset", "<i8"), ("size", "<i8"), ("crc32", "<u4")]))
    return sha256(index_path(tar).read_bytes()).hexdigest()


def test_an_earlier_folder_gets_its_indexes_once(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config)]) == 0
    folder = tmp_path / "parts" / "train"
    before, shards = packed(tmp_path / "parts"), Shards.open(folder)
    content = json.loads((folder / MANIFEST).read_text())
    for number, shard in enumerate(content["shards"]):
        index_path(folder / shard["file"]).unlink()
        if number == 1:
            shard["index"] = write_earlier_index(folder / shard["file"])
        elif number:
            del shard["index"]
    (folder / MANIFEST).write_text(json.dumps({**content, "format": "crossmodal-shards/1"}))
    report = tmp_path / "parts" / "report.json"
    sizes = json.loads(report.read_text())
    sizes["results"]["train/manifest.json"] = (folder / MANIFEST).stat().st_size
    report.write_text(json.dumps(sizes))
    assert Shards.open(folder).manifest.digest == shards.manifest.digest
    capsys.readouterr()
    assert main(["shards", "--index", str(tmp_path / "parts")]) == 0
    out = capsys.readouterr().out
    assert f"{folder}: wrote the indexes of 4 shards\n" in out and "test: all 2 shards have an index; nothing" in out
    assert packed(tmp_path / "parts") == before
    assert main(["shards", str(config)]) == 0
    assert "finished before; nothing to do" in capsys.readouterr().out
    assert main(["shards", "--check", str(tmp_path / "parts")]) == 0


def test_an_index_is_not_made_of_a_tar_that_changed(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config)]) == 0
    tar = tmp_path / "parts" / "train" / "000001.tar"
    index_path(tar).unlink()
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    assert main(["shards", str(tar.parent), "--index"]) == 1
    assert f"{tar}: its bytes changed since it was written" in capsys.readouterr().err
    manifest = read_manifest(tar.parent)
    assert [bool(shard.index) for shard in manifest.shards] == [True, False, True, True]  # read as a whole till then


def test_one_damaged_tar_costs_no_other_shard_its_index(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config)]) == 0
    output, folder = tmp_path / "parts", tmp_path / "parts" / "train"
    before, content = packed(output), json.loads((folder / MANIFEST).read_text())
    for shard in content["shards"]:
        shard["index"] = write_earlier_index(folder / shard["file"])
    (folder / MANIFEST).write_text(json.dumps(content))
    report = json.loads((output / "report.json").read_text())
    report["results"]["train/manifest.json"] = (folder / MANIFEST).stat().st_size
    (output / "report.json").write_text(json.dumps(report))
    tar = folder / "000000.tar"
    tar.write_bytes(bytes([before["train/000000.tar"][0] ^ 1]) + before["train/000000.tar"][1:])
    assert main(["shards", "--index", str(output)]) == 1
    error = capsys.readouterr().err
    assert f"{tar}: its bytes changed since it was written" in error and "the 3 others have theirs now" in error
    shards = read_manifest(folder).shards
    assert shards[0].index == sha256(index_path(tar).read_bytes()).hexdigest() == content["shards"][0]["index"]
    for shard in shards[1:]:
        assert sha256(before[f"train/{index_path(Path(shard.file))}"]).hexdigest() == shard.index
    assert main(["shards", str(config)]) == 0
    assert "finished before; nothing to do" in capsys.readouterr().out
    tar.write_bytes(before["train/000000.tar"])
    assert main(["shards", "--index", str(output)]) == 0
    assert f"{folder}: wrote the indexes of 1 shards; 3 had one" in capsys.readouterr().out
    assert packed(output) == before


def picture() -> bytes:
    return Rgb().encode(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)))


def write_tars(folder: Path, *samples: dict[str, bytes], each: int = 2) -> Path:
    """Tars as WebDataset writes them, without a manifest."""
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=each, encoder=False, verbose=0) as tars:
        for number, sample in enumerate(samples):
            tars.write({"__key__": f"a/{number:04d}", **sample})
    return folder


def test_tars_of_another_program_get_indexes_and_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [{"rgb.jpg": picture(), "cls": str(number).encode(), "txt": b"a cat"} for number in (2, 0, 2)]
    folder = write_tars(tmp_path / "tars", *samples, {"rgb.jpg": picture(), "json": b'{"group": "hall", "url": "x"}'})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["shards", "--index", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"{folder}: wrote the indexes of 2 tars and manifest.json: 4 pairs with rgb, 3 of them with a label" in out
    assert "not read: the members txt" in out
    shards = Shards.open(folder)
    assert shards.labels().tolist() == [2, 0, 2, -1] and shards.groups() == ["", "", "", "hall"]
    assert shards.manifest.classes == ["0", "1", "2"] and shards.manifest.labels == {"0": 1, "2": 2}
    assert 0 < shards.manifest.statistics["rgb"]["mean"] < 1
    pair = read_pair(shards, {"rgb": open_view(shards, "rgb", size=8)}, 0)
    torch.testing.assert_close(pair.adapted["rgb"][0], Rgb(size=8).decode(picture()))
    assert pair.label.tolist() == [2]
    assert shards.facts(3) == {"group": "hall", "url": "x", "label": -1}
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert main(["shards", "--check", str(folder)]) == 0
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["shards", "--index", str(folder)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert made == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_group_may_have_the_number_0(tmp_path: Path) -> None:
    facts = [json.dumps({"label": -1, "group": group}).encode() for group in (0, 1, "", None)]
    folder = write_tars(tmp_path / "tars", *({"rgb.jpg": picture(), "json": each} for each in facts))
    assert main(["shards", "--index", str(folder)]) == 0
    assert Shards.open(folder).groups() == ["0", "1", "", ""]
    assert read_manifest(folder).groups == {"0": 1, "1": 1}

    def groups_read() -> list[int]:
        shards = Shards.open(folder)
        view = {"rgb": open_view(shards, "rgb", size=8)}
        return [int(read_pair(shards, view, index).group) for index in range(4)]

    indexed = groups_read()
    assert len({*indexed}) == 3 and indexed[2:] == [-1, -1]
    content = json.loads((folder / MANIFEST).read_text())
    for shard in content["shards"]:
        del shard["index"]
    (folder / MANIFEST).write_text(json.dumps(content))
    assert groups_read() == indexed
    assert Shards.open(folder).groups() == ["0", "1", "", ""]


def test_options_that_no_tar_tells_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metres = torch.full((1, 8, 8), 2.0)
    sample = {"rgb.jpg": picture(), "depth.png": Depth().encode(metres)}
    folder = write_tars(tmp_path / "tars", sample, {"rgb.jpg": picture()})
    assert main(["shards", "--index", str(folder)]) == 1
    assert f"'depth.png' needs scale_m, invalid, which no tar tells; write them into {folder}/fields.json" in (
        capsys.readouterr().err
    )
    spec = {"modality": "depth", "extension": "png", "stored": {"scale_m": 0.001, "invalid": 0.0}}
    (folder / "fields.json").write_text(json.dumps({"depth": {**spec, "extension": "npy"}}))
    assert main(["shards", "--index", str(folder)]) == 1
    assert f"{folder}/fields.json: no tar has a member 'depth.npy'" in capsys.readouterr().err
    rgb = {"modality": "rgb", "extension": "jpg", "stored": {}}
    (folder / "fields.json").write_text(json.dumps({"depth": spec, "rgb": rgb}))
    assert main(["shards", "--index", str(folder)]) == 0
    manifest = read_manifest(folder)
    assert manifest.lacking == {"depth": 1} and manifest.statistics["depth"]["mean"] == 2.0
    assert main(["shards", "--check", str(folder)]) == 0


@pytest.mark.parametrize(("samples", "words"), [
    ([{"jpg": b"x"}], "no member names a field, got jpg; the name of a file must end in one of"),
    ([{"rgb.bmp2": b"x"}], r"'rgb.bmp2' must be one of "),
    ([{"rgb.jpg": b"junk"}], "pair '0000', field rgb.jpg "),
    ([{"rgb.jpg": picture(), "cls": b"cat"}], "pair '0000': its label must be a whole number from -1, got 'cat'"),
    ([], "holds no shards: there is no tar in it"),
])  # fmt: skip
def test_tars_that_cannot_be_shards_are_refused_in_one_sentence(
    samples: list[dict[str, bytes]], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tars(tmp_path / "tars", *samples)
    for path in () if samples else folder.iterdir():
        path.unlink()
    assert main(["shards", "--index", str(folder)]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (folder / MANIFEST).exists()


def test_a_folder_that_is_being_packed_is_not_indexed(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(config), "--part", "1/2"]) == 0
    assert main(["shards", "--index", str(tmp_path / "parts")]) == 1
    assert "holds shards that are not finished; repeat the command that packs them" in capsys.readouterr().err


def test_an_index_that_does_not_describe_its_tar_is_found(config: Path, tmp_path: Path) -> None:
    assert main(["shards", str(config)]) == 0
    folder = tmp_path / "parts" / "train"
    path = index_path(folder / "000000.tar")
    table = np.load(io.BytesIO(path.read_bytes()))
    table["label"][0] = (table["label"][0] + 1) % 8
    with path.open("wb") as file:
        np.save(file, table)
    content = json.loads((folder / MANIFEST).read_text())
    content["shards"][0]["index"] = sha256(path.read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content))
    assert check(folder) == [
        f"{path}: does not describe its shard; delete it and run crossmodal shards --index {folder}"
    ]
    assert tarfile.is_tarfile(folder / "000000.tar")
