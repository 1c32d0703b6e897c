"""Largest errors of exported files against the library: every encoder with every modality, as ONNX and torch.export.

Weights are random; batch statistics are those of the inputs. Errors are relative to the largest number of an output.

    python benchmarks/exports.py [--encoders NAME ...] [--modalities NAME ...] [--to onnx pt2 timm]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from crossmodal import ENCODERS
from crossmodal.deployment.check import batches
from crossmodal.deployment.exporting import TARGETS, export
from crossmodal.deployment.graph import DeploymentError, Graph
from crossmodal.models import Card, Model
from modalities import MODALITIES

OPTIONS = {
    "rgb": {"size": 48},
    "luminance": {"size": 48},
    "chrominance": {"size": 48},
    "depth": {"height": 48, "width": 64},
    "thermal": {"size": 48},
    "raster": {"size": 48},
    "audio": {"window_s": 0.5, "mels": 48},
}
CLASSES = ["a", "b", "c"]


def build(encoder: str, modality: str, **options: object) -> Model:
    """A model with random weights."""
    view = MODALITIES.get(modality)(**OPTIONS[modality])
    torch.manual_seed(0)
    network = ENCODERS.get(encoder)(view.shape, len(CLASSES), **options)
    card = Card(encoder, dict(options), view.shape, CLASSES, modality, OPTIONS[modality], temperature=1.7)
    model = Model(card, network.eval(), view, {})
    settle(model)
    return model


def settle(model: Model) -> None:
    """Gives batch norms the statistics of the inputs of the check; with others, random networks amplify rounding."""
    graph = Graph(model)
    rows = torch.cat([*batches(graph).values()])
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.encoder.train()
    with torch.no_grad():
        model.encoder(model.modality.normalise(graph.input(rows)))
    model.encoder.eval()


def measure() -> None:
    """Reads the arguments, and prints a line for each encoder, modality and kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS.names())
    parser.add_argument("--modalities", nargs="+", default=[*OPTIONS])
    parser.add_argument("--to", nargs="+", default=["onnx", "pt2"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for encoder in asked.encoders:
            for modality in asked.modalities:
                model = build(encoder, modality)
                for to in asked.to:
                    graph, out = Graph(model, maps=to != "timm").eval(), Path(folder) / f"model{TARGETS[to].suffix}"
                    try:
                        result = f"{export(graph, to, out).error:.1e}"
                    except DeploymentError as error:
                        result = f"refused: {error}"
                    print(f"{encoder:<20} {modality:<12} {to:<5} {result}", flush=True)


if __name__ == "__main__":
    measure()
