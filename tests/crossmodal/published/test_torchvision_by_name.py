"""Networks of torchvision by the names of their weights give what its own transforms and models give."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import as_view, pixels, stir
from torchvision import models

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder
from crossmodal.published import WeightsError, find
from crossmodal.weights import load_pretrained


def make(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> Any:
    """A network with random weights in torch's cache, under an address with the sum of the file."""
    member: Any = models.get_weight(name)
    model = next(each for each in models.list_models() if isinstance(member, models.get_model_weights(each)))
    network = stir(models.get_model(model, weights=None))
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "made.pth")
    digits = hashlib.sha256((folder / "made.pth").read_bytes()).hexdigest()[:8]
    (folder / "made.pth").rename(folder / f"{model}-{digits}.pth")
    other = dataclasses.replace(member.value, url=f"https://example.org/models/{model}-{digits}.pth")
    monkeypatch.setattr(type(member), "url", other.url, raising=False)
    return network


def build(name: str, side: int, classes: int = 0) -> Encoder:
    source = find(name)
    assert source is not None
    encoder: Encoder = ENCODERS.get(source.encoder)((3, side, side), classes, **source.options)
    assert load_pretrained(encoder, name) == []
    return encoder.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1", "torchvision"),
        ("MobileNet_V3_Small_Weights.IMAGENET1K_V1", "mobilenet"),
        ("ResNet18_Weights.IMAGENET1K_V1", "resnet"),
    ],
)
def test_a_network_gives_what_torchvision_gives(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, entry: str
) -> None:
    network = make(monkeypatch, tmp_path / "torch/hub/checkpoints", name)
    source, picture = find(f"torchvision:{name}"), pixels(256)
    assert source is not None and source.published is not None
    assert (source.encoder, source.published.size, source.published.interpolation) == (entry, 224, "bilinear")
    assert source.published.crop == pytest.approx(224 / 256)
    theirs = models.get_weight(name).transforms()(picture)[None]  # cuts 224 of the 256 pixels, and does not resize
    ours = as_view(picture.crop((16, 16, 240, 240)), source.published.mean, source.published.std)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    logits = build(f"torchvision:{name}", 224, 1000)(ours).logits
    assert logits.std() > 0.01  # there is something to compare
    torch.testing.assert_close(logits, network(theirs), atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("model", ["swin_t", "vit_b_32"])
def test_transformers_maps_are_places_of_the_picture(model: str) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS.get("torchvision")((3, 64, 64), 5, model=model).eval()
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features, norm = encoder(batch), encoder.trunk.norm if model == "swin_t" else encoder.trunk.encoder.ln
    last = norm(features.maps[-1].permute(0, 2, 3, 1))
    if model == "swin_t":
        torch.testing.assert_close(last.mean(dim=(1, 2)), features.embedding, atol=1e-5, rtol=1e-5)
    assert len(features.maps) == {"swin_t": 4, "vit_b_32": 12}[model]
    assert features.maps[-1].shape == (1, 768, 2, 2)
    network = models.get_model(model, num_classes=5, **({"image_size": 64} if model == "vit_b_32" else {})).eval()
    network.load_state_dict(encoder.trunk.state_dict())
    torch.testing.assert_close(features.logits, network(batch), atol=1e-5, rtol=1e-5)


def test_another_file_of_that_name_is_refused(hub: Path, tmp_path: Path) -> None:
    name, folder = "torchvision:ResNet18_Weights.IMAGENET1K_V1", tmp_path / "torch/hub/checkpoints"
    with pytest.raises(
        WeightsError, match=r"there is no .*/resnet18-f37072fd.pth, and nothing is downloaded unless you "
    ):
        find(name)
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"another")
    with pytest.raises(WeightsError, match=r"is not the published file: its sha256 must begin with f37072fd, got \w+"):
        find(name)


def test_unknown_weights_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        WeightsError, match=r"no such weights; did you mean torchvision:ResNet50_Weights.IMAGENET1K_V\d\?"
    ):
        find("torchvision:ResNet50_Weights.IMAGENET1K_V3")
    with pytest.raises(WeightsError, match=r"is no classification network"):
        find("torchvision:FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1")


def test_networks_without_one_last_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="torchvision's SqueezeNet does not end in one linear layer"):
        ENCODERS.get("torchvision")((3, 64, 64), 0, model="squeezenet1_0")
    with pytest.raises(ValueError, match="torchvision's vit_b_32 takes square pictures, got 64 x 96"):
        ENCODERS.get("torchvision")((3, 64, 96), 0, model="vit_b_32")
    with pytest.raises(LookupError, match="torchvision has no model 'resnet81'; did you mean 'resnet18'"):
        ENCODERS.get("torchvision")((3, 64, 64), 0, model="resnet81")
