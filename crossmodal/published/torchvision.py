"""Networks of torchvision by the names of their weights."""

import difflib
import re
from typing import Any

from torchvision import models

from crossmodal.encoders import Published
from crossmodal.published.files import from_url, torch_cache
from crossmodal.published.names import WeightsError
from crossmodal.published.source import Source

_ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {  # models that have an entry with more features than `torchvision`
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in (18, 34, 50)},
    **{f"mobilenet_v3_{size}": ("mobilenet", {"size": size}) for size in ("small", "large")},
    **{
        f"efficientnet_{variant}": ("efficientnet", {"variant": variant})
        for variant in ("b0", "b1", "b2", "b3", "v2_s")
    },
}


def find(weights: str, *, download: bool = False) -> Source:
    """The network of "torchvision:ENUM.MEMBER"; its file is in torch's cache, and its sum is checked.

    Raises:
        WeightsError: torchvision has no such weights, or the file is missing, cannot be fetched or is another one.
    """
    name = weights.removeprefix("torchvision:")
    try:
        member: Any = models.get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        known = [str(each) for model in models.list_models(module=models) for each in models.get_model_weights(model)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean torchvision:{near[0]}?" if near else ""
        raise WeightsError(f"{weights}: torchvision has no such weights{hint}") from error
    model = next(
        (each for each in models.list_models(module=models) if isinstance(member, models.get_model_weights(each))), None
    )
    if model is None:
        raise WeightsError(f"{weights} is no classification network; others have no single vector for a picture")
    encoder, options = _ENTRIES.get(model, ("torchvision", {"model": model}))
    digits = re.search(r"-([0-9a-f]{8,})\.\w+$", member.url)
    path = from_url(weights, member.url, [torch_cache()], sha256=digits[1] if digits else "", download=download)
    return Source(weights, encoder, options, path, (), None, member.meta.get("license"), _input(member.transforms()))


def _input(transforms: Any) -> Published:
    side, resized = transforms.crop_size[0], transforms.resize_size[0]
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Published(mean, std, side, transforms.interpolation.value, side / resized)
