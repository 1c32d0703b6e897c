"""Code of all picture encoders: checks of the input shape, the first layer, and the measuring of features."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Leave, Spec, stay

Choice = TypeVar("Choice")
LARGEST = 2**24  # maximum numbers in a sample, as in RGB of 2,364 x 2,364


def choose(option: str, value: Any, choices: Mapping[Any, Choice]) -> Choice:
    """The entry of `choices` for an option's `value`.

    Raises:
        ValueError: there is no such entry; the message names the option.
    """
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return choices[value]


def read_channels(shape: tuple[int, ...], classes: int) -> int:
    """The channels of pictures of `shape`, after a check of both arguments.

    Raises:
        ValueError: `shape` is not a picture's or has more than `LARGEST` numbers, or `classes` is negative.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected samples of shape (channels, height, width), got {shape}")
    if math.prod(shape) > LARGEST:
        raise ValueError(f"samples must have at most {LARGEST} numbers, got {math.prod(shape)} in {shape}")
    if classes < 0:
        raise ValueError(f"classes must be at least 0, got {classes}")
    return shape[0]


class EndPaddedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: with a stride, an odd pixel is added at the bottom and right.

    torch's symmetric padding adds it at the top and left, which moves the grid of each strided layer by a pixel.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, **options: Any) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2 if stride == 1 else 0, **options)

    def forward(self, input: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ _ _"]:
        """The convolution of the padded picture."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride == 1:
            return super().forward(input)
        down, across = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in input.shape[2:])
        return super().forward(F.pad(input, (across // 2, across - across // 2, down // 2, down - down // 2)))


def conv_layer(before: int, after: int, stride: int, norm: str, padding: str = "both") -> list[nn.Module]:
    """A 3x3 convolution, its normalisation (batch, group or none) and ReLU; see `EndPaddedConv2d` for `padding`."""
    bias, kinds = norm == "none", {"both": nn.Conv2d, "end": EndPaddedConv2d}
    kind = choose("padding", padding, kinds)
    conv = kind(before, after, 3, stride, bias=bias, **({"padding": 1} if kind is nn.Conv2d else {}))
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    norms = {"batch": nn.BatchNorm2d(after), "group": nn.GroupNorm(math.gcd(8, after), after), "none": nn.Identity()}
    return [conv, choose("norm", norm, norms), nn.ReLU(inplace=True)]


def with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """`conv` if it takes `channels`, otherwise a new layer like it, drawn from the global generator."""
    if conv.in_channels == channels:
        return conv
    kernel, stride = (conv.kernel_size[0], conv.kernel_size[1]), (conv.stride[0], conv.stride[1])
    assert not isinstance(conv.padding, str) and conv.bias is None and conv.groups == 1
    fresh = nn.Conv2d(channels, conv.out_channels, kernel, stride, (conv.padding[0], conv.padding[1]), bias=False)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")  # as in torchvision
    return fresh


def first_convolution(trunk: nn.Module) -> tuple[str, nn.Conv2d]:
    """The name and the module of the layer that sees the picture, in networks that define it first.

    Raises:
        ValueError: there is no convolution.
    """
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError(f"{type(trunk).__name__} has no convolution that sees the picture")


def set_channels(trunk: nn.Module, channels: int) -> str:
    """Replaces the first convolution by a new one like it that takes `channels`; gives the name of its weight."""
    name, conv = first_convolution(trunk)
    if conv.in_channels != channels:
        assert conv.groups == 1
        options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "bias": conv.bias is not None}
        fresh = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, **options)  # type: ignore[arg-type]
        trunk.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], fresh)
    return f"{name}.weight"


def climb(
    picture: Float[Tensor, "batch channels height width"], stages: Iterable[nn.Module], leave: Leave = stay
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The value to continue with after the last stage, every stage's map, and every map before its last ReLU.

    The blocks of the stages omit their last ReLU, because it is applied here.
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
    """The channels in a new order that takes one of each of `groups` equal groups in turn (channel shuffle)."""
    return picture.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def draw_weights(trunk: nn.Module, *, linear_std: float | None = None) -> None:
    """Initialises weights for ReLU (He et al. 2015, fan-out) from the global generator.

    Args:
        trunk: its convolutions are initialised, with biases of 0.
        linear_std: standard deviation of linear weights, with biases of 0; None leaves linear layers unchanged.
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
    """Refuses pictures whose last rows or columns the first layer would not see.

    A layer without padding whose kernels do not overlap, as a transformer's patches or ConvNeXt's stem, ignores the
    remainder of a side divided by the patch.

    Raises:
        ValueError: there is a remainder; the message has the nearest sizes that fit.
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
                f"{type(trunk).__name__} has patches of {patch} pixels, and a {name} of {side} is not a multiple "
                f"of that: the last {lost} pixels would be ignored; give the view a {name} of {fitting}"
            )


def finish(encoder: Encoder, shape: tuple[int, ...]) -> Spec:
    """Converts the weights of `encoder` to channels-last, and measures its output sizes on a sample of zeros.

    On CPUs, channels-last trains residual networks 1.1 to 1.3 times and depthwise-convolution networks 2 times as fast;
    maps are channels-last too. No random number is drawn and no running statistic changes. The encoder is left in
    training mode, as every new module, and knows its blocks: the repeated modules that this forward pass called.
    """
    encoder.to(memory_format=torch.channels_last)
    encoder.eval()
    called: set[str] = set()
    blocks = _repeated(encoder)
    hooks = [block.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name, block in blocks.items()]
    with torch.no_grad():
        features = encoder(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    encoder.block_names = tuple(name for name in blocks if name in called)
    encoder.train()
    return Spec(
        dim=features.embedding.shape[1],
        maps=tuple(_size(item) for item in features.maps),
        classes=0 if features.logits is None else features.logits.shape[1],
        stem=None if features.stem is None else _size(features.stem),
        preactivations=bool(features.preactivations),
    )


def _repeated(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of classes of which a list holds several, by name; of nested ones, the inner ones.

    A forward pass may use the layers of a block without calling the block; such a block is listed too.
    """
    lists = [[*part.children()] for part in network.modules() if type(part) in (nn.Sequential, nn.ModuleList)]
    counts = Counter((number, type(child)) for number, children in enumerate(lists) for child in children)
    kinds = {kind for (_, kind), count in counts.items()
             if count > 1 and not issubclass(kind, nn.Sequential | nn.ModuleList)}  # fmt: skip
    listed = {id(child) for children in lists for child in children}
    blocks = {
        name: part
        for name, part in network.named_modules()
        if type(part) in kinds and id(part) in listed and any(True for _ in part.children()) and [*part.parameters()]
    }
    return {name: part for name, part in blocks.items() if not any(other.startswith(f"{name}.") for other in blocks)}


def _size(item: Tensor) -> tuple[int, int, int]:
    return item.shape[1], item.shape[2], item.shape[3]
