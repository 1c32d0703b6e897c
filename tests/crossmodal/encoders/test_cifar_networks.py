"""The networks of the CRD benchmark: their sizes as published, and what their stages give."""

import hashlib
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torchvision.models import resnet, shufflenetv2

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder, cifar_resnet, cifar_shufflenet, cifar_shufflenet_v2
from crossmodal.encoders.common.picture import climb, shuffle


class Published(NamedTuple):
    """A network of the benchmark, with 100 classes and pictures of 32 pixels."""

    encoder: str
    options: dict[str, Any]
    weights: int  # how many numbers are trained
    names: str  # see `fingerprint`
    channels: tuple[int, ...]  # of the maps
    sides: tuple[int, ...]  # of the maps, pixels
    dim: int  # of the embedding


WIDE, NARROW = ((64, 128, 256), (32, 16, 8), 256), ((16, 32, 64), (32, 16, 8), 64)
VGG = ((128, 256, 512, 512), (16, 8, 4, 4), 512)
PUBLISHED = {
    "resnet8x4": Published("cifar_resnet", {"depth": 8, "width": 4}, 1_233_540, "b2ead61a142e", *WIDE),
    "resnet20": Published("cifar_resnet", {"depth": 20}, 278_324, "0386434ca6f3", *NARROW),
    "resnet32": Published("cifar_resnet", {"depth": 32}, 472_756, "9e5592f61f00", *NARROW),
    "resnet32x4": Published("cifar_resnet", {"depth": 32, "width": 4}, 7_433_860, "99154b2aea1a", *WIDE),
    "resnet56": Published("cifar_resnet", {"depth": 56}, 861_620, "fa692cabb2e3", *NARROW),
    "resnet110": Published("cifar_resnet", {"depth": 110}, 1_736_564, "9ca5a9542fb3", *NARROW),
    "wrn_16_2": Published("cifar_wrn", {"depth": 16}, 703_284, "2266f04469bf", (32, 64, 128), (32, 16, 8), 128),
    "wrn_40_1": Published("cifar_wrn", {"depth": 40, "width": 1}, 569_780, "01abc5646d8c", *NARROW),
    "wrn_40_2": Published("cifar_wrn", {"depth": 40}, 2_255_156, "595ec0db20d1", (32, 64, 128), (32, 16, 8), 128),
    "vgg8": Published("cifar_vgg", {}, 3_965_028, "7f85b8479109", *VGG),
    "vgg13": Published("cifar_vgg", {"depth": 13}, 9_462_180, "5778ceb5832e", *VGG),
    "MobileNetV2": Published("cifar_mobilenet", {}, 812_836, "54501c9a7e31", (12, 16, 48, 160), (16, 8, 4, 2), 1280),
    "ShuffleV1": Published("cifar_shufflenet", {}, 949_258, "1282e767b3e9", (240, 480, 960), (16, 8, 4), 960),
    "ShuffleV2": Published("cifar_shufflenet_v2", {}, 1_355_528, "9b7750ae0328", (116, 232, 464), (16, 8, 4), 1024),
    "ResNet50": Published(
        "resnet",
        {"depth": 50, "stem": "small"},
        23_705_252,
        "d5367c1bcc2c",
        (256, 512, 1024, 2048),
        (32, 16, 8, 4),
        2048,
    ),
}
SMALLEST = ["resnet20", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]


def fingerprint(encoder: Encoder) -> str:
    """Names and shapes of all weights and statistics, under the names of the benchmark's repository, as 12 digits.

    There they come from `{name: tuple(value.shape)}` over `model_dict[network](num_classes=100).state_dict()`.
    """
    state = encoder.trunk.state_dict()
    for theirs, ours in encoder.other_names.items():
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def build(name: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 5, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS.get(name)(shape, classes, **options)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("network", PUBLISHED)
def test_sizes_and_names_are_the_published_ones(network: str):
    published = PUBLISHED[network]
    with torch.device("meta"):  # sizes alone, without the time to draw 24 million weights
        encoder = build(published.encoder, classes=100, **published.options)
    assert sum(weight.numel() for weight in encoder.parameters()) == published.weights
    assert encoder.spec.maps == tuple(zip(published.channels, published.sides, published.sides, strict=True))
    assert (encoder.spec.dim, encoder.spec.classes) == (published.dim, 100)
    assert fingerprint(encoder) == published.names


@pytest.mark.parametrize("network", [*SMALLEST, "ResNet50"])
def test_stem_and_preactivations_are_told(network: str):
    with torch.device("meta"):
        spec = build(PUBLISHED[network].encoder, **PUBLISHED[network].options).spec
    assert spec.preactivations and spec.stem is not None
    assert spec.stem[1] == (16 if network == "MobileNetV2" else 32)


@pytest.mark.parametrize("network", SMALLEST)
def test_pictures_of_64_pixels_give_maps_of_twice_the_size(network: str):
    published = PUBLISHED[network]
    spec = build(published.encoder, (1, 64, 64), **published.options).spec
    sides = [32, 16, 8, 4] if network == "vgg8" else [2 * side for side in published.sides]  # one pooling more
    assert spec.maps == tuple(zip(published.channels, sides, sides, strict=True)) and spec.dim == published.dim


def test_wide_residual_networks_count_a_batch_once():
    encoder = build("cifar_wrn", depth=10, width=1)
    encoder(noise(4, 3, 32, 32))
    counts = [norm.num_batches_tracked.item() for norm in encoder.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert len(counts) == 7 and set(counts) == {1}


def test_a_wide_residual_network_s_preactivations_are_its_maps_after_the_next_norm():
    encoder = build("cifar_wrn", depth=10, width=1).eval()
    for buffer in encoder.buffers():  # statistics other than 0 and 1
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    features = encoder(noise(2, 3, 32, 32))
    norms = [encoder.trunk.get_submodule(name) for name in ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")]
    for norm, after, before in zip(norms, features.maps, features.preactivations, strict=True):
        assert torch.equal(norm(after), before)
    torch.testing.assert_close(features.embedding, features.preactivations[-1].relu().mean((2, 3)), atol=0, rtol=0)


def test_a_shuffle_takes_one_channel_of_each_group_in_turn():
    picture = torch.arange(6.0)[None, :, None, None]
    assert shuffle(picture, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle(picture, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(shuffle(picture, 1), picture)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cifar_resnet._Block(4, 4, 1), resnet.BasicBlock(4, 4)),
        (
            cifar_resnet._Block(4, 8, 2),
            resnet.BasicBlock(4, 8, 2, nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))),
        ),
        (cifar_shufflenet_v2._Block(4), shufflenetv2.InvertedResidual(4, 4, 1)),
        (cifar_shufflenet_v2._Halving(4, 8), shufflenetv2.InvertedResidual(4, 8, 2)),
    ],
)
def test_blocks_agree_with_torchvision_s(ours: nn.Module, theirs: nn.Module):
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    batch = noise(2, 4, 8, 8).relu()  # as a stem gives it
    torch.testing.assert_close(ours(batch).relu(), theirs(batch), atol=1e-6, rtol=1e-6)


def test_what_passes_beside_a_shufflenet_block_is_added_or_put_behind_it():
    batch = noise(2, 12, 8, 8)
    same, halved = cifar_shufflenet._Block(12, 12), cifar_shufflenet._Block(12, 36)
    for block in (same, halved):
        nn.init.zeros_(block.bn3.weight)
    assert torch.equal(same(batch), batch)
    assert halved(batch).shape == (2, 36, 4, 4) and not halved(batch)[:, :24].any()
    assert torch.equal(halved(batch)[:, 24:], nn.functional.avg_pool2d(batch, 3, 2, 1))


def test_between_the_blocks_of_a_stage_there_is_a_relu():
    class Less(nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return picture - 1

    _, maps, before = climb(torch.tensor([[[[0.5, 3.0]]]]), [nn.Sequential(Less(), Less())])
    assert before[0].flatten().tolist() == [-1.0, 1.0] and maps[0].flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_resnet", {"depth": 18}, r"depth must be 6 n \+ 2, such as 8, 20, 32, 56 or 110, got 18"),
        ("cifar_resnet", {"depth": 2}, r"depth must be 6 n \+ 2, .* got 2"),
        ("cifar_resnet", {"width": 0}, "width must be at least 1, got 0"),
        ("cifar_wrn", {"depth": 20}, r"depth must be 6 n \+ 4, such as 16 or 40, got 20"),
        ("cifar_wrn", {"width": 0}, "width must be at least 1, got 0"),
        ("cifar_mobilenet", {"width": 0.01}, "width must be at least 1/16, got 0.01"),
        ("cifar_shufflenet_v2", {"width": 0.7}, "width must be one of 0.5, 1.0, 1.5, 2.0, got 0.7"),
    ],
)
def test_sizes_that_cannot_be_are_refused(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_vgg_refuses_pictures_it_would_halve_away():
    with pytest.raises(ValueError, match=r"at least 8 pixels a side, got \(3, 4, 32\)"):
        build("cifar_vgg", (3, 4, 32))
