"""What all encoders of pictures share: the shapes they take, their first layer, and how their features are measured."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Leave, Spec, stay

Choice = TypeVar("Choice")
LARGEST = 2**24  # numbers of a sample: RGB of 2,364 x 2,364


def choose(option: str, value: Any, choices: Mapping[Any, Choice]) -> Choice:
    """What `value` stands for among `choices`.

    Raises:
        ValueError: it stands for nothing; the message names the option.
    """
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return choices[value]


def read_channels(shape: tuple[int, ...], classes: int) -> int:
    """The channels of pictures of `shape`, once both facts are known to make sense.

    Raises:
        ValueError: `shape` is not that of a picture or has more than `LARGEST` numbers, or `classes` is negative.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected samples of shape (channels, height, width), got {shape}")
    if math.prod(shape) > LARGEST:
        raise ValueError(f"samples must have at most {LARGEST} numbers, got {math.prod(shape)} in {shape}")
    if classes < 0:
        raise ValueError(f"classes must be at least 0, got {classes}")
    return shape[0]


def with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """`conv` itself where it already takes `channels`, else a new one like it; draws from the global generator."""
    if conv.in_channels == channels:
        return conv
    kernel, stride = (conv.kernel_size[0], conv.kernel_size[1]), (conv.stride[0], conv.stride[1])
    assert not isinstance(conv.padding, str) and conv.bias is None and conv.groups == 1
    fresh = nn.Conv2d(channels, conv.out_channels, kernel, stride, (conv.padding[0], conv.padding[1]), bias=False)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return fresh


def climb(
    picture: Float[Tensor, "batch channels height width"], stages: Iterable[nn.Module], leave: Leave = stay
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What goes on from the last stage, the map of every stage, and each before its last ReLU.

    The stages' blocks leave their last ReLU to this.
    """
    maps, before = [], []
    for stage in stages:
        for block in stage.children():
            raw = block(picture)
            picture = raw.relu()
        maps.append(picture)
        before.append(raw)
        picture = leave(picture)
    return picture, tuple(maps), tuple(before)


def shuffle(picture: Float[Tensor, "batch channels height width"], groups: int) -> Tensor:
    """The channels of `groups` equal groups, one of each group in turn."""
    return picture.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def draw_weights(trunk: nn.Module, *, linear_std: float | None = None) -> None:
    """The usual start of networks with ReLU (He et al. 2015), by what leaves a layer; from the global generator.

    Args:
        trunk: whose convolutions are drawn, with biases of 0.
        linear_std: deviation of the weights of linear layers, with biases of 0; None leaves those as they are.
    """
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def refuse_cut_edges(trunk: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuses pictures of which the first layer does not see the last rows or columns.

    A layer whose kernels do not overlap and that pads nothing, as a transformer's patches or ConvNeXt's stem, leaves
    out what is left of a side when it is divided.

    Raises:
        ValueError: it does so; the message has the nearest sizes that fit.
    """
    first = next((module for module in trunk.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or isinstance(first.padding, str) or any(first.padding):
        return
    names = ("size", "size") if shape[1] == shape[2] else ("height", "width")
    for name, side, patch, stride in zip(names, shape[1:], first.kernel_size, first.stride, strict=True):
        lost = (side - patch) % stride if stride >= patch else 0
        if lost:
            fitting = " or ".join(str(each) for each in (side - lost, side - lost + stride) if each)
            raise ValueError(
                f"{type(trunk).__name__} looks at patches of {patch} pixels, and a {name} of {side} is no multiple of "
                f"that: the last {lost} pixels would not be seen; give the view a {name} of {fitting}"
            )


def finish(encoder: Encoder, shape: tuple[int, ...]) -> Spec:
    """Lays the weights of a built `encoder` channels-last, and measures what it gives by one look at zeros.

    On CPUs training residual networks is 1.1 to 1.3 times as fast like that, and networks of depthwise convolutions
    twice; maps come channels-last too. No random number is drawn, no running statistic changes, and the encoder is
    left in training mode, where construction leaves every module.
    """
    encoder.to(memory_format=torch.channels_last)
    encoder.eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, *shape))
    encoder.train()
    return Spec(
        dim=features.embedding.shape[1],
        maps=tuple(_size(item) for item in features.maps),
        classes=0 if features.logits is None else features.logits.shape[1],
        stem=None if features.stem is None else _size(features.stem),
        preactivations=bool(features.preactivations),
    )


def _size(item: Tensor) -> tuple[int, int, int]:
    return item.shape[1], item.shape[2], item.shape[3]
