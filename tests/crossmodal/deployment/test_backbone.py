"""A backbone has the maps of the model, with the channels and strides that timm gives for the same network."""

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.deployment import Backbone, DeploymentError
from crossmodal.models import Card, Model
from modalities import MODALITIES


def model_of(encoder: str, size: int = 64, **options: object) -> Model:
    torch.manual_seed(0)
    card = Card(encoder, options, (1, size, size), [], "depth", {"size": size})
    network = ENCODERS.get(encoder)((1, size, size), 0, **options)
    return Model(card, network.eval(), MODALITIES.get("depth")(size=size), {})


def test_maps_are_those_of_the_model_from_metres_of_any_size() -> None:
    model = model_of("convnet", width=4, stages=3)
    backbone = Backbone(model, stages=(0, 2))
    assert (backbone.channels, backbone.strides) == ([4, 16], [4, 16])
    metres = torch.rand(2, 1, 96, 160, generator=torch.Generator().manual_seed(0)) * 8
    maps = backbone(metres)
    expected = model.encoder(model.modality.normalise(metres)).maps
    assert [*maps] == ["0", "2"] and torch.equal(maps["2"], expected[2]) and maps["2"].shape == (2, 16, 6, 10)
    sum(each.sum() for each in maps.values()).backward()
    assert all(weight.grad is not None for weight in model.encoder.parameters())


@pytest.mark.parametrize(("encoder", "name"), [("resnet", "resnet18"), ("efficientnet_lite", "tf_efficientnet_lite0")])
def test_channels_and_strides_are_those_of_timm(encoder: str, name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra")
    told = timm.create_model(name, features_only=True, in_chans=1).feature_info
    backbone = Backbone(model_of(encoder))
    assert backbone.strides == told.reduction()[-len(backbone.strides) :]
    ours, theirs = backbone.channels[:-1], told.channels()[-len(backbone.channels) : -1]
    assert ours == theirs  # the last map of EfficientNet-Lite is the head's here, and the last block's in timm


@pytest.mark.parametrize("stages", [(), (4,), (-1,)])
def test_stages_that_the_model_lacks_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(DeploymentError, match="stages must be some of 0 to 3"):
        Backbone(model_of("convnet", width=4), stages)
