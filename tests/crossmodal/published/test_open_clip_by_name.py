"""Vision towers of OpenCLIP by name give what its own preprocessing and model give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import as_view, keep, pixels, saved, stir

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder
from crossmodal.published import WeightsError, find
from crossmodal.weights import load_pretrained

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "patch_size": None},
    "timm": {"timm_model_name": "test_vit", "timm_model_pretrained": True, "timm_pool": "", "timm_proj": "linear",
             "image_size": 160},
}  # fmt: skip
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}


def configured(kind: str, **changes: Any) -> dict[str, Any]:
    return {"embed_dim": 24, "vision_cfg": MODELS[kind], "text_cfg": TEXT, **changes}


def make(folder: Path, kind: str, **changes: Any) -> Any:
    """A model, with a copy of it as `open_clip.push_to_hf_hub` writes one."""
    config = configured(kind, **changes)
    plain = {**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": False}}
    network = stir(open_clip.CLIP(**plain))
    saved(network, folder / "open_clip_model.safetensors")
    described = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return network


def build(name: str, side: int, channels: int = 3) -> Encoder:
    source = find(name)
    assert source is not None
    encoder: Encoder = ENCODERS.get(source.encoder)((channels, side, side), 0, **source.options)
    assert load_pretrained(encoder, name) == []
    return encoder.eval()


@torch.no_grad()
@pytest.mark.parametrize(("kind", "quick"), [("vit", False), ("vit", True), ("resnet", False), ("timm", False)])
def test_a_tower_gives_what_open_clip_gives(hub: Path, tmp_path: Path, kind: str, quick: bool) -> None:
    network, side = make(tmp_path, kind, quick_gelu=quick), MODELS[kind]["image_size"]
    picture, files = pixels(side), {path.name: path for path in tmp_path.glob("open_clip*")}
    keep(hub, "me/clip", files)
    for name in (f"open_clip:{tmp_path}", "hf-hub:me/clip"):
        source = find(name)
        assert source is not None and source.published is not None
        theirs = open_clip.image_transform(side, is_train=False, **{key: PREPROCESS[key] for key in ("mean", "std")})(
            picture
        )[None]
        ours = as_view(picture, source.published.mean, source.published.std)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        features = build(name, side)(ours)
        assert features.embedding.std() > 0.01  # there is something to compare
        torch.testing.assert_close(features.embedding, network.encode_image(theirs), atol=1e-5, rtol=1e-5)
    assert {each.shape[2] for each in features.maps[-1:]} == {{"vit": 4, "resnet": 2, "timm": 10}[kind]}


@torch.no_grad()
def test_position_embeddings_of_another_size_are_resized_as_by_open_clip(tmp_path: Path) -> None:
    network = make(tmp_path, "vit")
    larger = open_clip.CLIP(**configured("vit", vision_cfg={**MODELS["vit"], "image_size": 96})).eval()
    state = network.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    batch = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    ours = build(f"open_clip:{tmp_path}", 96)(batch).embedding
    torch.testing.assert_close(ours, larger.encode_image(batch), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_tower_of_timm_is_resized_as_by_timm(tmp_path: Path) -> None:
    network = make(tmp_path, "timm")
    network.visual.set_input_size(96)
    batch = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    ours = build(f"open_clip:{tmp_path}", 96)(batch).embedding
    torch.testing.assert_close(ours, network.encode_image(batch), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_student_of_one_channel_starts_from_the_summed_first_layer(tmp_path: Path) -> None:
    network = make(tmp_path, "resnet")
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = build(f"open_clip:{tmp_path}", 64, 1)(grey).embedding
    torch.testing.assert_close(ours, network.encode_image(grey.repeat(1, 3, 1, 1)), atol=1e-5, rtol=1e-5)


def test_a_model_and_its_tag_are_found_in_the_hub_s_cache(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "vit")
    (tmp_path / "tiny-for-test.json").write_text(json.dumps(configured("vit")))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {"tiny-for-test": configured("vit")})
    card = {"hf_hub": "me/tiny/", "url": "", "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "quick_gelu": True,
            "interpolation": "bicubic"}  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-for-test", {"mine": card})
    with pytest.raises(
        WeightsError, match=r"open_clip_model.safetensors or .* of me/tiny is not in .*/hf/hub, and nothing"
    ):
        find("open_clip:tiny-for-test/mine")
    commit = keep(hub, "me/tiny", {"open_clip_model.safetensors": tmp_path / "open_clip_model.safetensors"})
    source = find("open_clip:tiny-for-test/mine")
    assert source is not None and source.published is not None and source.revision == commit
    assert source.options["config"]["quick_gelu"] is True and "text_cfg" not in source.options["config"]
    assert source.published.mean == (0.1, 0.2, 0.3)


def test_what_open_clip_does_not_have_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(WeightsError, match=r"open_clip \S+ has no model 'ViT-B-23'; did you mean ViT-B-\d+"):
        find("open_clip:ViT-B-23/openai")
    with pytest.raises(
        WeightsError, match=r"open_clip has no weights 'opnai' of RN50 \(known: openai, yfcc15m, cc12m\)"
    ):
        find("open_clip:RN50/opnai")


def test_a_repository_for_several_libraries_is_timm_s_where_timm_describes_it(hub: Path, tmp_path: Path) -> None:
    make(tmp_path, "vit")
    files: dict[str, Any] = {path.name: path for path in tmp_path.glob("open_clip*")}
    keep(hub, "me/laion", {**files, "config.json": json.dumps({"model_type": "clip"})})
    keep(hub, "me/timm", {**files, "config.json": json.dumps({"architecture": "resnet18"}),
                          "model.safetensors": tmp_path / "open_clip_model.safetensors"})  # fmt: skip
    kinds = {name: find(f"hf-hub:me/{name}") for name in ("laion", "timm")}
    assert {name: source and source.encoder for name, source in kinds.items()} == {"laion": "open_clip", "timm": "timm"}
