"""Networks of timm by name give what timm's own preprocessing and model give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import as_view, keep, pixels, saved, stir
from torch import Tensor

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder
from crossmodal.published import WeightsError, find
from crossmodal.weights import load_pretrained

timm = pytest.importorskip("timm", reason="timm is not installed")

CARD = {
    "input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 1.0, "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4], "first_conv": "patch_embed.proj", "classifier": "head", "num_classes": 7,
    "license": "cc-by-nc-4.0", "fixed_input_size": True,
}  # fmt: skip
ARGUMENTS = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 3}
CONFIG = {"architecture": "test_vit", "num_classes": 7, "num_features": 32, "model_args": ARGUMENTS,
          "pretrained_cfg": CARD}  # fmt: skip


def make(hub: Path, tmp_path: Path, repository: str = "me/small", **changes: Any) -> Any:
    """A small transformer with registers in the hub's cache, and timm's own copy of it."""
    network = stir(timm.create_model("test_vit", num_classes=7, **ARGUMENTS))
    weights = saved(network, tmp_path / "made.safetensors")
    keep(hub, repository, {"config.json": json.dumps({**CONFIG, **changes}), "model.safetensors": weights})
    return network


def build(name: str, side: int, classes: int = 0, channels: int = 3) -> Encoder:
    source = find(name)
    assert source is not None
    encoder: Encoder = ENCODERS.get(source.encoder)((channels, side, side), classes, **source.options)
    assert load_pretrained(encoder, name) == []
    return encoder.eval()


def transformed(picture: Any, card: dict[str, Any]) -> Tensor:
    """Timm's own preprocessing."""
    from timm.data import create_transform, resolve_data_config

    return create_transform(**resolve_data_config({}, pretrained_cfg=card))(picture)[None]


@torch.no_grad()
def test_a_network_of_the_hub_gives_what_timm_gives(hub: Path, tmp_path: Path) -> None:
    network, picture = make(hub, tmp_path), pixels(64)
    source = find("hf-hub:me/small")
    assert source is not None and source.published is not None
    assert (source.encoder, source.licence, source.revision) == ("timm", "cc-by-nc-4.0", source.path.parent.name)
    assert (source.published.size, source.published.interpolation, source.published.crop) == (64, "bicubic", 1.0)
    theirs = transformed(picture, CARD)
    ours = as_view(picture, source.published.mean, source.published.std)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    features = build("hf-hub:me/small", 64, 7)(ours)
    assert features.embedding.std() > 0.01  # there is something to compare
    pooled = network.forward_head(network.forward_features(theirs), pre_logits=True)
    torch.testing.assert_close(features.embedding, pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.logits, network(theirs), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_class_and_register_tokens_are_not_in_the_maps(hub: Path, tmp_path: Path) -> None:
    network, batch = make(hub, tmp_path), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = build("hf-hub:me/small", 64)(batch).maps
    tokens = network.norm(maps[-1].flatten(2).transpose(1, 2))
    assert [tuple(each.shape) for each in maps] == [(2, 32, 4, 4)] * 2
    torch.testing.assert_close(tokens, network.forward_features(batch)[:, 4:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_position_embeddings_of_another_size_are_resized_as_by_timm(hub: Path, tmp_path: Path) -> None:
    make(hub, tmp_path)
    batch = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    state = find("hf-hub:me/small")
    assert state is not None
    theirs = timm.create_model(
        "test_vit", num_classes=7, **{**ARGUMENTS, "img_size": 96}, pretrained=True,
        pretrained_cfg_overlay={"file": str(state.path), "num_classes": 7},
    ).eval()  # fmt: skip
    torch.testing.assert_close(build("hf-hub:me/small", 96, 7)(batch).logits, theirs(batch), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_student_of_one_channel_starts_from_the_summed_first_layer(hub: Path, tmp_path: Path) -> None:
    network = make(hub, tmp_path)
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = build("hf-hub:me/small", 64, 7, channels=1)(grey).logits
    torch.testing.assert_close(ours, network(grey.repeat(1, 3, 1, 1)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_registered_network_is_found_by_its_tag(hub: Path, tmp_path: Path) -> None:
    network = stir(timm.create_model("test_convnext.r160_in1k"))
    commit = keep(
        hub, "timm/test_convnext.r160_in1k", {"model.safetensors": saved(network, tmp_path / "w.safetensors")}
    )
    source, picture = find("timm/test_convnext"), pixels(160)
    assert source is not None and source.published is not None
    assert (source.options, source.revision) == ({"model": "test_convnext.r160_in1k"}, commit)
    theirs = transformed(picture, {**network.pretrained_cfg, "crop_pct": 1.0})
    ours = as_view(picture, source.published.mean, source.published.std)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    logits = build("timm/test_convnext.r160_in1k", 160, 1000)(ours).logits
    torch.testing.assert_close(logits, network(theirs), atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.01


def test_a_revision_is_its_own_copy(hub: Path, tmp_path: Path) -> None:
    make(hub, tmp_path)
    path = saved(timm.create_model("test_vit", num_classes=7, **ARGUMENTS), tmp_path / "other.safetensors")
    commit = keep(hub, "me/small", {"config.json": json.dumps(CONFIG), "model.safetensors": path}, revision="v2")
    main, other = find("hf-hub:me/small"), find("hf-hub:me/small@v2")
    assert main is not None and other is not None
    assert (other.revision, main.revision == commit) == (commit, False) and main.sha256 != other.sha256
    with pytest.raises(WeightsError, match=r"at v3 is not in .*/hf/hub, .* hf download me/small --revision v3$"):
        find("hf-hub:me/small@v3")


def test_the_folder_of_a_copy_is_taken(hub: Path, tmp_path: Path) -> None:
    make(hub, tmp_path)
    source = find("hf-hub:me/small")
    assert source is not None
    copy = find(f"hf-hub:{source.path.parent}")
    assert copy is not None and copy.sha256 == source.sha256 and copy.options == source.options
    with pytest.raises(WeightsError, match=r"hf-hub:/none/here: there is no folder /none/here$"):
        find("hf-hub:/none/here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"/empty holds no config.json$"):
        find(f"hf-hub:{tmp_path / 'empty'}")


def test_a_config_of_another_mean_is_another_digest(hub: Path, tmp_path: Path) -> None:
    make(hub, tmp_path)
    make(hub, tmp_path, "me/other", pretrained_cfg={**CARD, "mean": [0.1, 0.1, 0.1]})
    first, second = find("hf-hub:me/small"), find("hf-hub:me/other")
    assert first is not None and second is not None
    assert first.sha256 == second.sha256 and first.digest != second.digest


def test_the_licence_of_the_model_card_counts_where_timm_states_none(hub: Path, tmp_path: Path) -> None:
    card = {key: value for key, value in CARD.items() if key != "license"}
    make(hub, tmp_path, pretrained_cfg=card)
    source = find("hf-hub:me/small")
    assert source is not None and source.licence is None
    (source.path.parent / "README.md").write_text("---\ntags:\n- x\nlicense: apache-2.0\n---\n# license: none\n")
    again = find("hf-hub:me/small")
    assert again is not None and again.licence == "apache-2.0"
    (source.path.parent / "README.md").write_text("# A model\nlicense: mine\n")
    last = find("hf-hub:me/small")
    assert last is not None and last.licence is None


def test_what_is_nowhere_is_refused_with_the_nearest_name(hub: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"timm/resnet81.a1_in1k: timm .* no such model, .*did you mean timm/resnet\d"
    ):
        find("timm/resnet81.a1_in1k")
    with pytest.raises(WeightsError, match=r"no weights of this name for resnet18; its weights are resnet18.a1_in1k, "):
        find("timm/resnet18.mine")
    with pytest.raises(
        WeightsError, match=r"no config.json|config.json of me/none is not in .*, and nothing is downloaded"
    ):
        find("hf-hub:me/none")


def test_missing_weights_say_where_and_how(hub: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find("timm/vit_small_patch14_dinov2.lvd142m")
    assert str(caught.value) == (
        "timm/vit_small_patch14_dinov2.lvd142m: model.safetensors or pytorch_model.bin of "
        f"timm/vit_small_patch14_dinov2.lvd142m is not in {hub}, and nothing is downloaded unless you say so: set "
        "download=true beside weights, or call hf download timm/vit_small_patch14_dinov2.lvd142m"
    )


def test_models_of_transformers_are_named_as_such(hub: Path) -> None:
    keep(hub, "me/vit", {"config.json": json.dumps({"model_type": "vit"})})
    with pytest.raises(WeightsError, match=r"is a model of transformers; write transformers:me/vit$"):
        find("hf-hub:me/vit")
    keep(hub, "me/new", {"config.json": json.dumps({"architecture": "resnet_of_tomorrow"})})
    with pytest.raises(WeightsError, match=r"is a resnet_of_tomorrow, which timm \S+ does not have; upgrade timm$"):
        find("hf-hub:me/new")
    keep(hub, "me/torn", {"config.json": '{"architecture": "res'})
    with pytest.raises(WeightsError, match=r"config.json is damaged: .*; delete it and fetch it again$"):
        find("hf-hub:me/torn")


def test_a_copy_is_enough_where_the_hub_cannot_be_reached(hub: Path, tmp_path: Path) -> None:
    make(hub, tmp_path)
    found = find("hf-hub:me/small", download=True)
    assert found is not None and found == find("hf-hub:me/small")
    keep(hub, "me/part", {"config.json": json.dumps(CONFIG)})
    with pytest.raises(WeightsError, match=r"the hub cannot be reached, and its copy here has no model.safetensors or"):
        find("hf-hub:me/part", download=True)
    with pytest.raises(
        WeightsError, match=r"no such model, .*did you mean timm/resnet.*, nor from the hub: .*be reached"
    ):
        find("timm/resnet81.a1_in1k", download=True)
