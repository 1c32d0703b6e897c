"""The module that is exported: from what a sensor's driver gives to embeddings, probabilities and maps."""

import json

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from crossmodal.deployment.inputs import INPUTS, Samples
from crossmodal.models import Model
from modalities import CropBox

BATCH = "batch"  # name of the dimension whose size is free


class DeploymentError(ValueError):
    """An encoder cannot be exported as asked, or the exported file computes something else."""


class Graph(nn.Module):
    """A model with the preprocessing of its input.

    Args:
        model: a loaded exported encoder; its weights are shared.
        maps: whether the outputs have the output of each stage too.
        size: height and width of the pictures that the graph reads, which it resizes as `Modality.adapt` does; None:
            the size of the model.

    Raises:
        DeploymentError: there is a `size`, and the model's input has none.
    """

    def __init__(self, model: Model, *, maps: bool = False, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.model, self.encoder, self.maps = model, model.encoder, maps
        self.name = model.card.modality if model.card.modality in INPUTS else "samples"
        kind = INPUTS.get(model.card.modality, Samples)
        if size is not None and not kind.sized:
            raise DeploymentError(f"a size is for pictures and maps, and this model reads {model.card.modality}")
        self.input = kind(model.modality, size)
        spec, classes = model.encoder.spec, len(model.card.classes)
        sizes: dict[str, tuple[int, ...]] = {"embedding": (spec.dim,)}
        if classes:
            sizes["probabilities"] = (classes,)
        if maps:
            sizes |= {f"map{stage}": each for stage, each in enumerate(spec.maps)}
        self.names, self.sizes = tuple(sizes), tuple(sizes.values())

    def forward(self, batch: Shaped[Tensor, "batch *shape"]) -> tuple[Tensor, ...]:
        """The outputs in the order of `names`, float32."""
        features = self.encoder(self.model.modality.normalise(self.input(batch)))
        outputs = [features.embedding]
        if features.logits is not None:
            outputs.append((features.logits / (self.model.card.temperature or 1.0)).softmax(1))
        return tuple(each.float() for each in (*outputs, *(features.maps if self.maps else ())))

    def expected(self, batch: Shaped[Tensor, "batch *shape"]) -> tuple[Tensor, ...]:
        """The same outputs by the library's own preprocessing of single signals."""
        adapted = torch.stack([self.model.modality.adapt(self.input.signal(row), CropBox()) for row in batch])
        features = self.encoder(self.model.modality.normalise(adapted))
        probabilities = (self.model.probabilities(adapted),) if self.model.card.classes else ()
        return (features.embedding, *probabilities, *(features.maps if self.maps else ()))

    def example(self, rows: int = 2) -> Shaped[Tensor, "{rows} *shape"]:
        """A batch of ones."""
        return torch.ones(rows, *self.input.shape, dtype=self.input.dtype)

    def facts(self) -> dict[str, str]:
        """What a user of the file needs to know, as text by name; most are JSON."""
        card, given = self.model.card, self.input
        content = {
            "input": {
                "name": self.name,
                "dtype": str(given.dtype).removeprefix("torch."),
                "shape": [BATCH, *given.shape],
                "unit": given.unit,
                "range": given.range,
                "no_reading": given.gaps,
            },
            "outputs": [
                {"name": name, "shape": [BATCH, *shape]} for name, shape in zip(self.names, self.sizes, strict=True)
            ],
            "classes": card.classes,
            "temperature": card.temperature,
            "modality_options": card.modality_options,
            "encoder_options": card.encoder_options,
        }
        texts = {"format": "crossmodal-graph/1", "modality": card.modality, "encoder": card.encoder}
        return texts | {"weights": card.weights} | {name: json.dumps(value) for name, value in content.items()}


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """The graph as a program of torch, with a free number of rows.

    Raises:
        DeploymentError: torch cannot trace the encoder.
    """
    free = {0: torch.export.Dim(BATCH, min=1)}
    with torch.no_grad():
        try:
            return torch.export.export(graph, (graph.example(),), dynamic_shapes=(free,))
        except Exception as error:  # torch raises errors of many kinds
            reason = str(error).strip().partition("\n")[0]
            raise DeploymentError(f"the encoder {graph.model.card.encoder} cannot be traced: {reason}") from error
