"""Networks of transformers by name give what its own image processors and models give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import as_view, keep, pixels, stir

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder
from crossmodal.published import WeightsError, find
from crossmodal.weights import load_pretrained

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
               "image_size": 64, "patch_size": 16}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16, "vocab_size": 9,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": TRANSFORMER,
    "deit": TRANSFORMER,
    "dinov2": {**TRANSFORMER, "patch_size": 8},
    "dinov2_with_registers": {**TRANSFORMER, "patch_size": 8},
    "dinov3_vit": {**TRANSFORMER, "num_register_tokens": 3},
    "clip": {"vision_config": TRANSFORMER, "text_config": TEXT},
    "siglip": {"vision_config": TRANSFORMER, "text_config": TEXT},
    "convnext": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "swin": {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
}
MAPS = {"vit": (4, 4), "deit": (4, 4), "dinov2": (8, 8), "dinov2_with_registers": (8, 8), "dinov3_vit": (4, 4),
        "clip": (4, 4), "siglip": (4, 4), "convnext": (2, 2), "swin": (8, 8), "resnet": (8, 8)}  # fmt: skip
TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}
PROCESSOR = {"size": {"height": 64, "width": 64}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
             "resample": 2}  # fmt: skip


def save(folder: Path, kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
    stir(transformers.AutoModel.from_config(config)).save_pretrained(folder)
    transformers.ViTImageProcessor(**PROCESSOR).save_pretrained(folder)


def load_theirs(folder: Path, kind: str) -> Any:
    return getattr(transformers, TOWERS.get(kind, "AutoModel")).from_pretrained(folder).eval()


def build(name: str, side: int, channels: int = 3) -> Encoder:
    source = find(name)
    assert source is not None
    encoder: Encoder = ENCODERS.get(source.encoder)((channels, side, side), 0, **source.options)
    assert load_pretrained(encoder, name) == []
    return encoder.eval()


def pooled(output: Any, kind: str) -> torch.Tensor:
    """ViT's and DeiT's classifiers see the class token; their pooler is of other tasks, and many files lack it."""
    return output.last_hidden_state[:, 0] if kind in ("vit", "deit") else output.pooler_output.flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_network_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    picture, name = pixels(64), f"transformers:{tmp_path}"
    source = find(name)
    assert source is not None and source.published is not None
    assert (source.published.size, source.published.interpolation) == (64, "bilinear")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    ours = as_view(picture, source.published.mean, source.published.std)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    output, features = load_theirs(tmp_path, kind)(pixel_values=theirs), build(name, 64)(ours)
    assert features.embedding.std() > 0.01  # there is something to compare
    torch.testing.assert_close(features.embedding, pooled(output, kind), atol=1e-5, rtol=1e-5)
    assert tuple(features.maps[-1].shape[2:]) == MAPS[kind]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "tokens"), [("dinov2_with_registers", 5), ("dinov3_vit", 4), ("siglip", 0)])
def test_class_and_register_tokens_are_not_in_the_maps(tmp_path: Path, kind: str, tokens: int) -> None:
    save(tmp_path, kind)
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = load_theirs(tmp_path, kind)
    last = build(f"transformers:{tmp_path}", 64)(batch).maps[-1].flatten(2).transpose(1, 2)
    norm = next(module for name, module in reversed([*theirs.named_modules()])
                if isinstance(module, torch.nn.LayerNorm) and name in ("layernorm", "norm", "post_layernorm",
                                                                       "vision_model.post_layernorm"))  # fmt: skip
    expected = theirs(pixel_values=batch).last_hidden_state[:, tokens:]
    torch.testing.assert_close(norm(last), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_position_embeddings_of_another_size_are_resized_by_transformers(tmp_path: Path) -> None:
    save(tmp_path, "clip")
    batch = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    theirs = load_theirs(tmp_path, "clip")(pixel_values=batch, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(build(f"transformers:{tmp_path}", 96)(batch).embedding, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_trunk_of_a_classifier_is_taken_without_it(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("vit", **TRANSFORMER)
    network = stir(transformers.AutoModelForImageClassification.from_config(config))
    network.save_pretrained(tmp_path)
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = network.vit(batch).last_hidden_state[:, 0]
    torch.testing.assert_close(build(f"transformers:{tmp_path}", 64)(batch).embedding, theirs, atol=1e-5, rtol=1e-5)
    source = find(f"transformers:{tmp_path}")
    assert source is not None and source.published is None and "id2label" not in source.options["config"]


@torch.no_grad()
def test_a_student_of_one_channel_starts_from_the_summed_first_layer(tmp_path: Path) -> None:
    save(tmp_path, "dinov2")
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = build(f"transformers:{tmp_path}", 64, 1)(grey).embedding
    theirs = load_theirs(tmp_path, "dinov2")(pixel_values=grey.repeat(1, 3, 1, 1)).pooler_output
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_hub_s_cache_is_read(hub: Path, tmp_path: Path) -> None:
    save(tmp_path / "made", "resnet")
    card = "---\nlicense: mit\n---\n"
    commit = keep(hub, "me/net", {**{path.name: path for path in (tmp_path / "made").iterdir()}, "README.md": card})
    source = find("transformers:me/net")
    assert source is not None and (source.revision, source.licence) == (commit, "mit")
    with pytest.raises(
        WeightsError, match=r"config.json of me/none is not in .*download=true beside weights, or call hf"
    ):
        find("transformers:me/none")


def test_what_is_no_network_of_transformers_is_refused(hub: Path) -> None:
    keep(hub, "me/timm", {"config.json": json.dumps({"architecture": "resnet18"})})
    with pytest.raises(WeightsError, match=r"is a model of timm; write hf-hub:me/timm$"):
        find("transformers:me/timm")
    keep(hub, "me/new", {"config.json": json.dumps({"model_type": "vit9"})})
    with pytest.raises(WeightsError, match=r"is a 'vit9', which transformers \S+ does not have; upgrade transformers$"):
        find("transformers:me/new")
    keep(hub, "me/big", {"config.json": json.dumps({"model_type": "vit"}), "model.safetensors.index.json": "{}"})
    with pytest.raises(WeightsError, match=r"me/big lies in several files, which are not read; save it as one"):
        find("transformers:me/big")


def test_networks_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="config must describe a vision network, got a bert"):
        ENCODERS.get("transformers")((3, 64, 64), 0, config={"model_type": "bert", "num_hidden_layers": 1})
    with pytest.raises(LookupError, match=r"has no model_type 'vit9'"):
        ENCODERS.get("transformers")((3, 64, 64), 0, config={"model_type": "vit9"})


def test_sizes_that_the_patch_does_not_divide_are_refused_with_the_fitting_ones() -> None:
    with pytest.raises(ValueError, match=r"give the view a size of 56 or 64$"):
        ENCODERS.get("transformers")((3, 60, 60), 0, config={"model_type": "dinov2", **CONFIGS["dinov2"]})


def test_another_network_s_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "resnet")
    encoder = ENCODERS.get("transformers")((3, 64, 64), 0, config={"model_type": "vit", **TRANSFORMER})
    with pytest.raises(WeightsError, match=r"is not made for this Transformers: 0 of \d+ weights match"):
        load_pretrained(encoder, str(tmp_path / "model.safetensors"))
