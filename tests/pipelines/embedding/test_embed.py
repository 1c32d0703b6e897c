"""`crossmodal embed` and `crossmodal.load`: rows equal the encoder's own embeddings, whatever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crossmodal as cm
from crossmodal import ENCODERS, SOURCES
from crossmodal.data.inputs import InputError
from crossmodal.data.reader import open_view, sweep_parts
from crossmodal.data.samples import SampleError
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.models import Card, ExportError, save_model
from modalities import MODALITIES, CropBox
from pipelines.__main__ import main
from pipelines.embedding import command

ROOT = Path(__file__).parents[3]
OPTIONS = {"size": 16, "max_m": 8.0, "fit": "crop", "invalid": 0.0, "scale_m": 0.001}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")((1, 16, 16), 3, width=4, stages=2)
    folder = tmp_path_factory.mktemp("exported") / "student"
    save_model(folder, Card("convnet", {"width": 4, "stages": 2}, (1, 16, 16), ["a", "b", "c"], "depth", OPTIONS),
               encoder, {})  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten depth maps in millimetres."""
    folder, random = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for number in range(10):
        pixels = random.integers(500, 7000, (24, 24)).astype(np.uint16)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return dict(content)


def test_rows_equal_the_embeddings_of_the_encoder(exported: Path, maps: Path, tmp_path: Path) -> None:
    assert main(["embed", str(exported), str(maps), "--to", str(tmp_path / "v.npz"), "--batch", "3"]) == 0
    rows, model = read(tmp_path / "v.npz"), cm.load(exported)
    assert rows["keys"].tolist() == [str(maps / f"{number}.png") for number in range(10)]
    metres = [np.asarray(Image.open(maps / f"{number}.png"), dtype=np.float32) / 1000 for number in range(10)]
    with torch.inference_mode():
        adapted = torch.stack([model.modality.adapt(torch.from_numpy(each)[None], CropBox()) for each in metres])
        expected = model.encoder(model.modality.normalise(adapted)).embedding
    assert np.allclose(rows["vectors"], expected.numpy(), atol=1e-6)
    assert torch.allclose(model.embed(metres), expected, atol=1e-6)
    assert torch.allclose(model.embed(str(maps)), expected, atol=1e-6)
    assert torch.allclose(model.embed([maps / "3.png"]), expected[3:4], atol=1e-6)


def test_shards_have_keys_and_labels(exported: Path, synthetic: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet needs the extra parquet")
    assert main(["embed", str(exported), str(synthetic / "test"), "--to", str(tmp_path / "v.parquet")]) == 0
    table, shards = pq.read_table(tmp_path / "v.parquet"), Shards.open(synthetic / "test")
    assert table.num_rows == len(shards)
    assert table["key"][5].as_py() == f"{synthetic / 'test'}/{shards.locate(5)[1].key}"
    views = {"depth": open_view(shards, "depth", **OPTIONS)}
    (part,) = sweep_parts(shards, views, batch_size=100)
    names = [shards.manifest.classes[label] for label in part.label.tolist()]
    assert table["label"].to_pylist() == names
    expected = cm.load(exported).embed(synthetic / "test")
    assert np.allclose(np.stack(table["vector"].to_numpy(zero_copy_only=False)), expected.numpy(), atol=1e-6)
    assert len(table.schema.metadata[b"model"]) == 64


def test_labels_of_several_folders_have_their_own_names(exported: Path, maps: Path, tmp_path: Path) -> None:
    for name in ("hall", "yard"):
        members = {"depth": {"modality": "depth", "files": "{key}.png", "scale_m": 0.001}}
        pairs = [
            replace(pair, label=0) for pair in SOURCES.get("folder")(root=str(maps), members=members).pairs("train")
        ]
        fields = {"depth": MODALITIES.get("depth")(scale_m=0.001)}
        write_shards(iter(pairs), tmp_path / name, fields=fields, classes=(name,), pairs_per_shard=100)
    folders = [str(tmp_path / name) for name in ("hall", "yard")]
    assert main(["embed", str(exported), *folders, "--to", str(tmp_path / "v.npz")]) == 0
    assert read(tmp_path / "v.npz")["labels"].tolist() == ["hall"] * 10 + ["yard"] * 10


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_command_that_ends_early_continues_and_ends_with_the_same_bytes(
    exported: Path, maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs the extra parquet")
    monkeypatch.setattr(command, "ROWS", 4)
    words = ["embed", str(exported), str(maps), "--batch", "2", "--to"]
    assert main([*words, str(tmp_path / f"whole.{kind}")]) == 0
    if kind == "npz":
        assert read(tmp_path / "whole.npz")["keys"].tolist() == [str(maps / f"{number}.png") for number in range(10)]
    real, done = command._rows, []

    def rows(*arguments: object, **options: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[2])
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_rows", rows)
    target = tmp_path / f"broken.{kind}"
    assert main([*words, str(target)]) == 130
    assert not target.exists()
    done.pop()
    assert main([*words, str(target)]) == 0
    assert done == [0, 8]  # what the first start finished was not done again
    assert target.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert [*tmp_path.glob("*.parts")] == []


def test_parts_of_other_files_are_not_taken(
    exported: Path, maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "v.npz"
    real = command._rows
    monkeypatch.setattr("pipelines.embedding.parts.join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["embed", str(exported), str(maps / "1.png"), "--to", str(target)]) == 130
    monkeypatch.undo()
    assert real is command._rows
    assert main(["embed", str(exported), str(maps / "2.png"), "--to", str(target)]) == 0
    assert read(target)["keys"].tolist() == [str(maps / "2.png")]


def test_a_file_that_is_no_depth_map_has_no_row_and_its_reason_is_printed(
    exported: Path, maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(bad)
    words = [str(maps / "1.png"), str(bad), str(maps / "2.png")]
    assert main(["embed", str(exported), *words, "--to", str(tmp_path / "v.npz")]) == 1
    assert read(tmp_path / "v.npz")["keys"].tolist() == [words[0], words[2]]
    err = capsys.readouterr().err
    assert f"{bad}: depth must be" in err
    assert "2 embeddings of 8 numbers; 1 files could not be read" in err
    with pytest.raises(SampleError, match=r"bad\.png: depth must be"):
        cm.load(exported).embed(words)


def test_without_a_readable_file_nothing_replaces_the_vectors_of_before(
    exported: Path, maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "v.npz"
    assert main(["embed", str(exported), str(maps / "1.png"), "--to", str(target)]) == 0
    assert main(["embed", str(exported), str(tmp_path / "nofolder"), "--to", str(target)]) == 1
    assert f"{target} was not written; 1 files could not be read" in capsys.readouterr().err
    assert read(target)["keys"].tolist() == [str(maps / "1.png")]


def test_a_model_gives_maps_and_classes(exported: Path, maps: Path) -> None:
    model = cm.load(exported)
    fine, coarse = model.maps(maps)
    assert fine.shape[0] == coarse.shape[0] == 10
    assert fine.shape[-1] == 2 * coarse.shape[-1]
    answers = model.predict(str(maps))
    batch = [np.asarray(Image.open(maps / f"{number}.png"), dtype=np.float32) / 1000 for number in range(10)]
    logits = model.encoder(model.modality.normalise(torch.stack([model._adapt(each) for each in batch]))).logits
    assert logits is not None
    best = logits.softmax(1).max(1)
    assert [name for name, _ in answers] == ["abc"[place] for place in best.indices.tolist()]
    assert [share for _, share in answers] == pytest.approx(best.values.tolist())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([], "give at least one path or array"),
        (["a.png", np.zeros((4, 4))], "give paths or arrays, not both"),
        (np.zeros((3, 4, 4, 5)), r"an array of shape \[3, 4, 4, 5\] is no signal of depth"),
        ("none/*.png", r"none/\*.png matches no file"),
    ],
)
def test_what_a_model_cannot_read_is_refused(exported: Path, what: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cm.load(exported).embed(what)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "v.csv"], "embed: --to must be a file that ends in .parquet or .npz, got v.csv"),
        (["--to", "v.npz", "--batch", "0"], "embed: --batch must be at least 1"),
        ([], "embed: the following arguments are required: --to"),
    ],
)
def test_wrong_words_are_one_sentence(
    exported: Path, maps: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(exported), str(maps), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no exported model"):
        cm.load(tmp_path)


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(exported: Path, maps: Path, tmp_path: Path) -> None:
    words = ["embed", str(exported), str(maps), "--batch", "2"]
    script = (
        "import sys; from pipelines.embedding import command; command.ROWS = 4; "
        "from pipelines.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "small_parts.py").write_text(script)
    one = [sys.executable, str(tmp_path / "small_parts.py"), *words, "--to", str(tmp_path / "one.npz")]
    subprocess.run(one, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT)
    two = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone",
        str(tmp_path / "small_parts.py"), *words, "--to", str(tmp_path / "two.npz"),
    ]  # fmt: skip
    subprocess.run(two, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT)
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


@pytest.mark.slow
def test_a_killed_command_leaves_no_file_and_continues(exported: Path, maps: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pipelines.embedding import command, parts; command.ROWS = 1; "
        "save = parts.Parts.save; "
        "parts.Parts.save = lambda self, number, rows: (save(self, number, rows), time.sleep(0.2)); "
        "from pipelines.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "slowly.py").write_text(script)
    target = tmp_path / "v.npz"
    words = [sys.executable, str(tmp_path / "slowly.py"), "embed", str(exported), str(maps), "--batch", "1", "--to"]
    process = subprocess.Popen([*words, str(target)], cwd=ROOT)
    while not (tmp_path / "v.npz.parts" / "000002.npz").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    subprocess.run([*words, str(target)], check=True, cwd=ROOT)
    assert len(read(target)["vectors"]) == 10


def facts_in(folder: Path) -> Path:
    """Shards of six pairs whose source recorded facts of several kinds."""
    source = SOURCES.get("synthetic")(train_pairs=6, test_pairs=6, size=24, modalities=("depth",))
    facts = [
        {"pose": [0.5 * number, 1.0], "speed": number if number % 2 else number + 0.5, "room": f"r{number}"}
        | ({"note": "late"} if number == 3 else {})
        | {"vector": number, "odd": number if number else "none"}
        for number in range(6)
    ]
    pairs = (replace(pair, facts=own) for pair, own in zip(source.pairs("train"), facts, strict=True))
    write_shards(pairs, folder, fields=source.fields(), classes=source.classes(), pairs_per_shard=4)
    return folder


def test_facts_of_pairs_are_columns_of_the_parquet_file(exported: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet needs the extra parquet")
    shards = facts_in(tmp_path / "shards")
    assert main(["embed", str(exported), str(shards), "--to", str(tmp_path / "v.parquet"), "--batch", "4"]) == 0
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.num_rows == 6 and str(table.schema.field("pose").type) == "list<element: double>"
    assert table["pose"].to_pylist() == [[0.5 * number, 1.0] for number in range(6)]
    assert table["speed"].to_pylist() == [0.5, 1.0, 2.5, 3.0, 4.5, 5.0]
    assert table["room"].to_pylist() == [f"r{number}" for number in range(6)]
    assert table["note"].to_pylist() == [None, None, None, "late", None, None]
    assert (
        table["fact_vector"].to_pylist() == [*range(6)]
        and len(table["vector"][0]) == cm.load(exported).encoder.spec.dim
    )
    assert table["odd"].to_pylist() == ['"none"', "1", "2", "3", "4", "5"]
    opened = Shards.open(shards)
    assert [opened.facts(index)["room"] for index in range(6)] == table["room"].to_pylist()


def test_facts_in_npz_are_json_and_files_have_none(exported: Path, maps: Path, tmp_path: Path) -> None:
    assert main(["embed", str(exported), str(facts_in(tmp_path / "shards")), "--to", str(tmp_path / "v.npz")]) == 0
    assert [json.loads(text)["room"] for text in read(tmp_path / "v.npz")["facts"]] == [
        f"r{number}" for number in range(6)
    ]
    assert main(["embed", str(exported), str(maps), "--to", str(tmp_path / "w.npz")]) == 0
    assert "facts" not in read(tmp_path / "w.npz")


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_a_vector_store_finds_the_neighbours_that_brute_force_finds(
    suffix: str, exported: Path, synthetic: Path, tmp_path: Path
) -> None:
    faiss = pytest.importorskip("faiss", reason="pip install faiss-cpu")
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet needs the extra parquet")
    file = tmp_path / f"v.{suffix}"
    assert main(["embed", str(exported), str(synthetic / "train"), "--to", str(file)]) == 0
    vectors = read(file)["vectors"] if suffix == "npz" else np.stack(pq.read_table(file)["vector"].to_numpy())
    assert vectors.dtype == np.float32 and len(vectors) == 96
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    distances, found = index.search(vectors[:20], 4)
    exact = ((vectors[:20, None].astype(np.float64) - vectors[None]) ** 2).sum(2)
    assert (found[:, 0] == np.arange(20)).all() and (found == np.argsort(exact, 1)[:, :4]).mean() > 0.95  # but for ties
    assert np.allclose(distances, np.sort(exact, 1)[:, :4], rtol=1e-3, atol=1e-3 * exact.mean())
