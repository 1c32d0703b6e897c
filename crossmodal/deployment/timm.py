"""Checkpoints that `timm.create_model` loads, of encoders that are networks of timm."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor

from crossmodal.deployment.graph import DeploymentError, Graph
from crossmodal.deployment.targets import Run

FITTING = "timm, resnet (stem imagenet), efficientnet (b0 to b3) and efficientnet_lite"


def write(graph: Graph, path: Path) -> None:
    """Writes the weights under timm's names (safetensors), with the graph's facts as metadata.

    Raises:
        DeploymentError: timm is missing, or the encoder is no network of timm.
    """
    save_file(_renamed(graph), path, metadata=graph.facts() | {"timm": repr(_arguments(graph))})


def open_file(graph: Graph, path: Path) -> Run:
    """The network of timm behind the graph's preprocessing."""
    import timm

    network = timm.create_model(checkpoint_path=str(path), **_arguments(graph)).eval()

    def run(batch: Shaped[Tensor, "batch *shape"]) -> tuple[Tensor, ...]:
        normalised = graph.model.modality.normalise(graph.input(batch))
        embedding = network.forward_head(network.forward_features(normalised), pre_logits=True)
        if not graph.model.card.classes:
            return (embedding,)
        return embedding, (network(normalised) / (graph.model.card.temperature or 1.0)).softmax(1)

    return run


def use(graph: Graph, path: Path) -> str:
    """The line that opens the file."""
    first, *others = _arguments(graph).items()
    options = "".join(f", {name}={value!r}" for name, value in others)
    return f'network = timm.create_model("{first[1]}", checkpoint_path="{path}"{options})'


def _arguments(graph: Graph) -> dict[str, Any]:
    """The arguments of `timm.create_model`."""
    if importlib.util.find_spec("timm") is None:
        raise DeploymentError("a checkpoint for timm needs the package timm (pip install 'crossmodal-transfer[timm]')")
    card = graph.model.card
    assert not graph.maps  # they are no outputs of timm's networks
    name = _name(card.encoder, card.encoder_options)
    if name is None:
        options = ", ".join(f"{key} {value}" for key, value in card.encoder_options.items())
        raise DeploymentError(f"{card.encoder}{f' ({options})' * bool(options)} is no network of timm; "
                              f"such encoders are {FITTING}")  # fmt: skip
    arguments = {"model_name": name, "in_chans": card.shape[0], "num_classes": len(card.classes)}
    return arguments | _size(name, card.shape)


def _name(encoder: str, options: Mapping[str, Any]) -> str | None:
    """The name in timm of a network; None if timm does not have it."""
    if encoder == "timm":
        from crossmodal.encoders.timm import MODEL

        return str(options.get("model", MODEL))
    if encoder == "resnet" and options.get("stem", "imagenet") == "imagenet":
        return f"resnet{options.get('depth', 18)}"
    if encoder == "efficientnet" and options.get("variant", "b0") != "v2_s":
        return f"efficientnet_{options.get('variant', 'b0')}"
    return "tf_efficientnet_lite0" if encoder == "efficientnet_lite" else None


def _size(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    import timm

    card = timm.get_pretrained_cfg(name)
    return {"img_size": shape[1:]} if card is not None and card.fixed_input_size else {}


def _renamed(graph: Graph) -> dict[str, Tensor]:
    """The trunk's weights under timm's names, which stand in the same order."""
    import timm

    network = timm.create_model(**_arguments(graph))
    theirs, ours = network.state_dict(), graph.encoder.trunk.state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise DeploymentError(f"timm's {network.default_cfg['architecture']} of this version has other weights than "
                              f"the encoder {graph.model.card.encoder}")  # fmt: skip
    return {name: tensor.contiguous() for name, tensor in zip(theirs, ours.values(), strict=True)}
