"""Exported files compute what the library computes, for every kind of input, and are refused where they do not."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossmodal import ENCODERS
from crossmodal.deployment import DeploymentError, pt2, timm
from crossmodal.deployment.check import batches, compare
from crossmodal.deployment.exporting import TARGETS, export
from crossmodal.deployment.graph import Graph
from crossmodal.deployment.latency import measure
from crossmodal.deployment.targets import Target
from crossmodal.models import Card, Model
from modalities import MODALITIES, CropBox

VIEWS: dict[str, dict[str, Any]] = {
    "depth": {"height": 16, "width": 24},
    "thermal": {"size": 16, "fit": "stretch"},
    "raster": {"size": 16, "low": -2.0, "high": 5.0},
    "rgb": {"size": 16},
    "luminance": {"size": 16, "fit": "stretch"},
    "chrominance": {"height": 16, "width": 24},
    "audio": {"window_s": 0.25, "mels": 32, "rate_hz": 8000},
}
CLASSES = ["a", "b", "c"]
AMPLIFYING = ["cifar_mobilenet", "cifar_shufflenet", "cifar_shufflenet_v2", "efficientnet_lite"]  # see the docs
SMALL = {"width": 4, "stages": 2}


def model_of(
    modality: str = "depth", encoder: str = "convnet", options: dict[str, Any] = SMALL, *, classes: bool = True,
    view: dict[str, Any] | None = None,
) -> Model:  # fmt: skip
    """Random weights; batch norms have the statistics of the check's inputs, or random networks amplify rounding."""
    chosen = VIEWS[modality] if view is None else view
    seen, names = MODALITIES.get(modality)(**chosen), CLASSES if classes else []
    torch.manual_seed(0)
    network = ENCODERS.get(encoder)(seen.shape, len(names), **options)
    card = Card(encoder, options, seen.shape, names, modality, chosen, temperature=1.7 if classes else None)
    model = Model(card, network.eval(), seen, {})
    graph = Graph(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(seen.normalise(graph.input(torch.cat([*batches(graph).values()]))))
    network.eval()
    return model


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX needs the extra onnx")


@pytest.mark.parametrize(
    ("modality", "view"), [*VIEWS.items(), ("rgb", {"size": 16, "interpolation": "bicubic"})], ids=str
)
@pytest.mark.parametrize("size", [None, (40, 30), (9, 50)])
def test_the_graph_s_preprocessing_is_the_library_s(
    modality: str, view: dict[str, Any], size: tuple[int, int] | None
) -> None:
    if modality == "audio" and size:
        pytest.skip("sound has no size")
    model = model_of(modality, view=view)
    graph = Graph(model, size=size)
    assert graph.input.shape[:2] == size or size is None
    for name, batch in batches(graph).items():
        expected = torch.stack([model.modality.adapt(graph.input.signal(row), CropBox()) for row in batch])
        tolerance = 2e-2 if modality == "audio" else 1e-4 * 100  # dB next to the floor; L, a and b reach 100
        exact = modality in ("depth", "thermal", "raster")
        torch.testing.assert_close(graph.input(batch), expected, atol=0.0 if exact else tolerance, rtol=0.0,
                                   equal_nan=True, msg=name)  # fmt: skip


def test_inputs_for_checks_hold_every_hard_case() -> None:
    graph = Graph(model_of())
    made = batches(graph)
    assert {len(batch) for batch in made.values()} >= {1, 3}
    rows = [row for batch in made.values() for row in batch]
    for hard in (lambda row: (row == 0).all(), lambda row: row.isnan().all(), lambda row: (row == math.inf).all(),
                 lambda row: (row > 1000).all(), lambda row: (row < 0).all()):  # fmt: skip
        assert any(map(hard, rows))
    assert any(row.isnan().any() and row.isfinite().any() and (row == 0).any() for row in rows)


def test_no_reading_is_one_input_whatever_the_driver_writes() -> None:
    graph = Graph(model_of())
    rows = torch.stack([torch.full(graph.input.shape, value) for value in (0.0, math.nan, math.inf, -math.inf, -3.0)])
    with torch.inference_mode():
        embedding, probabilities = graph(rows)
    assert torch.equal(embedding, embedding[:1].expand_as(embedding)) and probabilities.isfinite().all()


@pytest.mark.parametrize("modality", VIEWS)
def test_a_torch_program_computes_what_the_library_does(modality: str, tmp_path: Path) -> None:
    graph = Graph(model_of(modality), maps=True).eval()
    checked = export(graph, "pt2", tmp_path / "model.pt2")
    assert checked.error < 1e-4 and checked.rows > 10
    facts = {pt2.FACTS: ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=facts)
    assert json.loads(facts[pt2.FACTS]) == graph.facts()


@pytest.mark.parametrize("modality", ["depth", "rgb", "audio"])
def test_an_onnx_file_computes_what_the_library_does_and_says_what_it_reads(modality: str, tmp_path: Path) -> None:
    needs_onnx()
    import onnxruntime

    graph = Graph(model_of(modality), maps=modality == "depth", size=None if modality == "audio" else (20, 30)).eval()
    assert export(graph, "onnx", tmp_path / "model.onnx").error < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == (modality, ["batch", *graph.input.shape])
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        (name, ["batch", *size]) for name, size in zip(graph.names, graph.sizes, strict=True)
    ]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == CLASSES and json.loads(facts["temperature"]) == 1.7
    assert json.loads(facts["input"])["unit"] == {"depth": "m", "rgb": "sRGB, red first",
                                                  "audio": "amplitude at 8000 Hz"}[modality]  # fmt: skip
    pixels = np.random.default_rng(0).uniform(0, 1, (5, *graph.input.shape))
    batch = (255 * pixels).astype(np.uint8) if modality == "rgb" else (8 * pixels).astype(np.float32)
    ours = session.run(["probabilities"], {modality: batch})[0]
    with torch.inference_mode():
        adapted = [graph.model.modality.adapt(graph.input.signal(row), CropBox()) for row in torch.from_numpy(batch)]
        theirs = graph.model.probabilities(torch.stack(adapted))
    assert np.allclose(ours, theirs.numpy(), atol=1e-4) and ours.std(0).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [name for name in ENCODERS.names() if name != "convnet"])
def test_a_torch_program_of_every_encoder_computes_what_the_library_does(encoder: str, tmp_path: Path) -> None:
    if encoder == "timm":
        pytest.importorskip("timm", reason="timm is an extra")
    graph = Graph(model_of("depth", encoder, {}, view={"size": 32}), maps=True).eval()
    assert export(graph, "pt2", tmp_path / "model.pt2").error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet", "cifar_vgg", "timm"])
def test_an_onnx_file_of_networks_of_other_kinds_computes_what_the_library_does(encoder: str, tmp_path: Path) -> None:
    needs_onnx()
    if encoder == "timm":
        pytest.importorskip("timm", reason="timm is an extra")
    graph = Graph(model_of("depth", encoder, {}, view={"size": 32}), maps=True).eval()
    assert export(graph, "onnx", tmp_path / "model.onnx").error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("encoder", AMPLIFYING)
def test_a_network_that_amplifies_rounding_of_sound_is_refused_by_a_sentence_or_exact(
    encoder: str, tmp_path: Path
) -> None:
    graph = Graph(model_of("audio", encoder, {}, view={"window_s": 0.48, "mels": 48}), maps=True).eval()
    checked = compare(graph, graph)  # the transform is the only difference
    if checked.error > 1e-4:
        with pytest.raises(DeploymentError, match=r"differs from the library's by .* more than 0.0001; nothing was"):
            export(graph, "pt2", tmp_path / "model.pt2")
        assert not [*tmp_path.iterdir()]
    assert checked.error < 1e-2  # which --tolerance=1e-2 accepts


def test_a_file_that_computes_something_else_is_refused_and_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_wrong(graph: Graph, path: Path) -> Any:
        run = pt2.open_file(graph, path)
        return lambda batch: tuple(output + 3e-4 * output.abs().max() for output in run(batch))

    monkeypatch.setitem(TARGETS, "pt2", Target(".pt2", pt2.write, open_wrong, pt2.use))
    with pytest.raises(DeploymentError, match=r"differs from the library's by 3.0e-04 .* more than 0.0001; nothing"):
        export(Graph(model_of()).eval(), "pt2", tmp_path / "model.pt2")
    assert not [*tmp_path.iterdir()]


def test_a_file_that_gives_nan_or_fails_is_refused() -> None:
    graph = Graph(model_of()).eval()
    assert compare(graph, lambda batch: tuple(output * math.nan for output in graph(batch))).error == math.inf

    def fails(batch: Tensor) -> tuple[Tensor, ...]:
        if len(batch) == 1:
            raise RuntimeError("no batch of one\nhere")
        return graph(batch)

    with pytest.raises(DeploymentError, match=r"the exported file fails on one noise \(1 inputs\): no batch of one$"):
        compare(graph, fails)


def test_data_of_the_user_is_compared_too() -> None:
    graph = Graph(model_of()).eval()
    seen: list[Tensor] = []

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        seen.append(batch)
        return graph(batch)

    compare(graph, run, [torch.full((1, 48, 64), 1.25)])
    assert any(batch.shape == (1, *graph.input.shape) and (batch == 1.25).all() for batch in seen)


def test_an_encoder_that_torch_cannot_trace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(model_of()).eval()

    def branches(batch: Tensor, leave: object = None) -> Any:
        return graph.encoder(batch * 2) if batch.sum().item() > 0 else graph.encoder(batch)

    monkeypatch.setattr(type(graph.encoder), "forward", branches)
    with pytest.raises(DeploymentError, match=r"^the encoder convnet cannot be traced: "):
        export(graph, "pt2", tmp_path / "model.pt2")
    assert not [*tmp_path.iterdir()]


def test_sound_has_no_size() -> None:
    with pytest.raises(DeploymentError, match="a size is for pictures and maps, and this model reads audio"):
        Graph(model_of("audio"), size=(10, 10))


@pytest.mark.parametrize(
    ("encoder", "options", "name"),
    [
        ("resnet", {"depth": 18}, "resnet18"),
        ("efficientnet_lite", {}, "tf_efficientnet_lite0"),
        ("efficientnet", {"variant": "b0"}, "efficientnet_b0"),
        ("timm", {"model": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224"),
    ],
)
@pytest.mark.parametrize("classes", [True, False])
def test_timm_loads_a_checkpoint(
    encoder: str, options: dict[str, Any], name: str, *, classes: bool, tmp_path: Path
) -> None:
    library = pytest.importorskip("timm", reason="timm is an extra")
    model = model_of("depth", encoder, options, classes=classes, view={"size": 64})
    graph = Graph(model).eval()
    assert export(graph, "timm", tmp_path / "model.safetensors").error < 1e-4
    line = timm.use(graph, tmp_path / "model.safetensors")
    assert line.startswith(f'network = timm.create_model("{name}", checkpoint_path=')
    space: dict[str, Any] = {"timm": library}
    exec(line, space)
    batch = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    network = space["network"].eval()
    with torch.inference_mode():
        ours, theirs = model.encoder(batch), network(batch)
    torch.testing.assert_close(theirs, ours.logits if classes else ours.embedding, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("encoder", "options"),
    [("convnet", SMALL), ("resnet", {"stem": "small"}), ("mobilenet", {}), ("efficientnet", {"variant": "v2_s"})],
)
def test_an_encoder_that_timm_lacks_is_refused_with_those_that_it_has(
    encoder: str, options: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("timm", reason="timm is an extra")
    card = Card(encoder, options, (1, 32, 32), [], "depth", {"size": 32})
    model = Model(card, card.build().eval(), MODALITIES.get("depth")(size=32), {})
    with pytest.raises(DeploymentError, match=f"^{encoder} .*is no network of timm; such encoders are timm, resnet"):
        export(Graph(model), "timm", tmp_path / "model.safetensors")


def test_a_modality_of_a_plug_in_is_read_as_adapted_samples(tmp_path: Path) -> None:
    model = model_of()
    other = replace(model, card=replace(model.card, modality="depth_of_mine"))
    graph = Graph(other).eval()
    assert graph.name == "samples" and graph.input.shape == (1, 16, 24)
    assert export(graph, "pt2", tmp_path / "model.pt2").error < 1e-4


def test_latency_has_every_way_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> Any:
        def fails(batch: Tensor) -> Any:
            raise RuntimeError("no compiler\nat all")

        return fails

    monkeypatch.setattr(torch, "compile", refuse)
    graph = Graph(model_of()).eval()
    rows = [*measure(graph, graph, "the file", (1, 2))]
    assert [(row.way, row.rows) for row in rows] == [
        (way, size) for way in ("eager", "torch.compile", "the file") for size in (1, 2)
    ]
    for row in rows:
        assert row.problem == ("no compiler" if row.way == "torch.compile" else "")
        assert row.problem or 0 < row.low_ms <= row.median_ms <= row.high_ms
