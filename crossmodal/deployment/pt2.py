"""Programs of torch.export, which need torch alone."""

import json
import warnings
from pathlib import Path

import torch

from crossmodal.deployment.graph import Graph, trace
from crossmodal.deployment.targets import Run

FACTS = "model.json"  # extra file with the facts


def write(graph: Graph, path: Path) -> None:
    """Writes a program, with the graph's facts in its extra file.

    Raises:
        DeploymentError: torch cannot trace the encoder.
    """
    program = trace(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={FACTS: json.dumps(graph.facts())})


def open_file(graph: Graph, path: Path) -> Run:
    """The program."""
    run: Run = torch.export.load(path).module()
    return run


def use(graph: Graph, path: Path) -> str:
    """The line that opens the file."""
    return f'program = torch.export.load("{path}").module()'
