"""Largest errors of exported files against the library: every encoder with every modality, as ONNX and torch.export.

Weights are random; batch statistics are those of one batch. Errors are relative to the largest number of an output.

    python benchmarks/exports.py [--encoders NAME ...] [--modalities NAME ...] [--to onnx pt2 timm]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from crossmodal import ENCODERS
from crossmodal.deployment.exporting import TARGETS, export
from crossmodal.deployment.graph import DeploymentError, Graph
from crossmodal.export import Card, Model
from modalities import MODALITIES

OPTIONS = {
    "rgb": {"size": 32},
    "luminance": {"size": 32},
    "chrominance": {"size": 32},
    "depth": {"height": 32, "width": 48},
    "thermal": {"size": 32},
    "raster": {"size": 32},
    "audio": {"window_s": 0.5, "mels": 32},
}
CLASSES = ["a", "b", "c"]


def build(encoder: str, modality: str, **options: object) -> Model:
    """A model with random weights."""
    view = MODALITIES.get(modality)(**OPTIONS[modality])
    torch.manual_seed(0)
    network = ENCODERS.get(encoder)(view.shape, len(CLASSES), **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(8, *view.shape))
    card = Card(encoder, dict(options), view.shape, CLASSES, modality, OPTIONS[modality], temperature=1.7)
    return Model(card, network.eval(), view, {})


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
