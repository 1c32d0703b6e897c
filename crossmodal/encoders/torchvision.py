"""Networks of torchvision (https://github.com/pytorch/vision) that have no entry of their own, by their names."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import finish, read_channels, refuse_cut_edges, set_channels
from modalities.common.catalogue import suggest

MODEL = "shufflenet_v2_x0_5"
_HOLDERS = (
    "features",
    "layers",
    "trunk_output",
    "blocks",
    "encoder.layers",
    "",
)  # modules whose children are the stages


class Torchvision(Encoder):
    """A classification network of torchvision by its name; the last map at each resolution, or one per block.

    The embedding is the classifier's input. `resnet`, `mobilenet` and `efficientnet` are entries of their own with more
    features. A vision transformer takes square pictures only, and its position embeddings are resized by torchvision.

    Raises:
        LookupError: torchvision has no such model.
        ValueError: the network does not take pictures of this shape, or does not end in one linear layer.
    """

    trunk: nn.Module
    leaves = False

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        model: str = MODEL,  # name of the model; torchvision.models.list_models(torchvision.models) lists all
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        known = models.list_models(module=models)
        if model not in known:
            raise LookupError(f"torchvision has no model {model!r}{suggest(model, known)}")
        self.model, self.side, self.has_logits = model, shape[1], classes > 0
        try:
            network = self._build(shape, max(classes, 1))
            self.stem = set_channels(network, channels)
            refuse_cut_edges(network, shape)
            self.last_is_channel = isinstance(network, SwinTransformer)
            self.places = self._places(network, shape)
            self.classifier, nodes = _nodes(network, torch.zeros(1, *shape), classes)
            self.trunk = create_feature_extractor(network, nodes)
            self.spec = finish(self, shape)
        except (RuntimeError, AssertionError, TypeError, IndexError) as error:  # models raise various errors
            raise ValueError(f"torchvision's {model} does not take pictures of shape {shape}: {error}") from error

    def rename(self, table: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors without those that torchvision computes anew: the indices of windows of attention."""
        own = self.trunk.state_dict()
        return {name: value for name, value in table.items() if name in own or not name.endswith("_position_index")}

    def convert(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """A vision transformer's tensors with position embeddings of another size; others are unchanged."""
        kernel, own = table.get("conv_proj.weight"), table.get("encoder.pos_embedding")
        if self.places is None or kernel is None or own is None:
            return table
        state: Any = dict(table)
        return dict(interpolate_embeddings(self.side, kernel.shape[-1], state))

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps, the classifier's input, and logits if there are classes."""
        output = self.trunk(batch)
        maps = tuple(self._map(value) for name, value in output.items() if name.startswith("map"))
        return Features(output["embedding"].flatten(1), maps, output.get("logits"))

    def _map(self, value: Tensor) -> Float[Tensor, "batch _ _ _"]:
        if self.last_is_channel:
            return value.permute(0, 3, 1, 2)
        if self.places is None:
            return value
        return value[:, 1:].transpose(1, 2).unflatten(2, self.places)  # the first token is of the class

    def _build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        sized = {"image_size": shape[1]} if self.model.startswith("vit_") else {}
        if sized and shape[1] != shape[2]:
            raise ValueError(f"torchvision's {self.model} takes square pictures, got {shape[1]} x {shape[2]}")
        return models.get_model(self.model, weights=None, num_classes=classes, **sized)

    def _places(self, network: nn.Module, shape: tuple[int, ...]) -> tuple[int, int] | None:
        if not isinstance(network, VisionTransformer):
            return None
        return shape[1] // network.patch_size, shape[2] // network.patch_size


def _nodes(network: nn.Module, sample: Tensor, classes: int) -> tuple[str, dict[str, str]]:
    """The prefix of the classifier's weights, and the nodes of the network's graph to give, with their names.

    Raises:
        ValueError: the network does not end in a linear layer.
    """
    names = get_graph_node_names(network)[1]
    last = names[-1]
    layer = dict(network.named_modules()).get(last)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"torchvision's {type(network).__name__} does not end in one linear layer")
    ends = {names[-2]: "embedding"} | ({last: "logits"} if classes else {})
    maps = _stages(network, names, sample)
    return f"{last}.", {name: f"map{place}" for place, name in enumerate(maps)} | ends


def _stages(network: nn.Module, names: list[str], sample: Tensor) -> list[str]:
    """The modules that give maps: the last of each resolution, or every block of a transformer."""
    for holder in _HOLDERS:
        inner = dict(network.named_modules()).get(holder)
        if inner is None:
            continue
        children = [f"{holder}.{name}" if holder else name for name, _ in inner.named_children()]
        found = [name for name in children if any(node == name or node.startswith(f"{name}.") for node in names)]
        with torch.no_grad():
            given = create_feature_extractor(network.eval(), found)(sample) if found else {}
        network.train()
        by_size: dict[tuple[int, ...], str] = {}
        for name, value in given.items():
            if value.ndim == 4 and value.shape[1] > 1 and max(value.shape[2:]) > 1:
                sizes = tuple(value.shape[1:3] if isinstance(network, SwinTransformer) else value.shape[2:])
                by_size[sizes] = name
            elif value.ndim == 3 and isinstance(network, VisionTransformer) and holder == "encoder.layers":
                by_size[(len(by_size),)] = name
        if len(by_size) > 1:
            return list(by_size.values())
    return []
