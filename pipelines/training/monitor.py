"""The collapse monitor of a pretraining: kNN accuracy, diagnostics and warnings."""

import json
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from crossmodal.data.reader import sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Encoder
from crossmodal.evaluation.common.diagnosis import diagnose_encoder
from crossmodal.metrics import neighbours
from crossmodal.modules.collapse import warn
from pipelines.runs import console
from pipelines.runs.folder import METRICS, RunFolder
from pipelines.schemas.pretrain import Config


@dataclass
class Monitor:
    """Adds metrics to the log at the end of epochs, and prints each warning about the log once."""

    run: RunFolder
    config: Config
    shards: Shards
    views: dict[str, View]
    encoders: dict[str, Encoder]
    device: torch.device
    told: set[str] = field(default_factory=set)  # problems printed since this process began

    def __call__(self, line: dict[str, float], *, before: int, epochs: int) -> dict[str, float]:
        """The metrics to add to a line of the log; `epochs` are complete, and `before` were at the previous line."""
        settings = self.config.monitor
        for problem in self._problems(line):
            if problem not in self.told:
                self.told.add(problem)
                console.warn(f"{self.run.path}: step {line['step']:.0f}: {problem}")
        due = epochs // settings.every > before // settings.every or before < epochs == self.config.train.passes
        if not (settings.pairs and due):
            return {}
        metrics: dict[str, float] = {}
        for name, encoder in self.encoders.items():
            values = self._figures(encoder, self.views[self.config.encoders[name].view])
            metrics |= {key if len(self.encoders) == 1 else f"{key}.{name}": value for key, value in values.items()}
        return metrics

    def warnings(self) -> list[str]:
        """All warnings about the log, with those from before an interruption."""
        lines = (self.run.path / METRICS).read_text(encoding="utf-8").splitlines()
        return list(dict.fromkeys(problem for line in lines for problem in self._problems(json.loads(line))))

    def _problems(self, line: dict[str, float]) -> list[str]:
        return warn(line) if line["step"] >= self.config.monitor.after else []

    def _figures(self, encoder: Encoder, view: View) -> dict[str, float]:
        settings, label, metrics = self.config.monitor, self._labels, {}
        member = self.shards.member(view.modality.field)
        present = torch.tensor([not self.shards.lacks(index, member) for index in range(len(label))])
        labelled = _some(((label >= 0) & present).nonzero().flatten(), settings.pairs)
        if len(labelled) > 1:
            metrics["knn"] = self._neighbours(encoder, view, labelled, label[labelled])
        if settings.diagnostics:
            crop = self.config.train.crop
            picked = labelled if len(labelled) > 1 else _some(present.nonzero().flatten(), settings.pairs)
            metrics |= diagnose_encoder(
                encoder, view, self.shards, picked.tolist(), device=self.device,
                crop=Crop(crop.scale, crop.ratio, crop.flip, shift=crop.shift),
            )  # fmt: skip
        return metrics

    @cached_property
    def _labels(self) -> Tensor:
        return self.shards.labels()

    @torch.inference_mode()
    def _neighbours(self, encoder: Encoder, view: View, picked: Tensor, label: Tensor) -> float:
        encoder.eval()
        rows = torch.cat([
            encoder(to_batch(part, {"view": view}, self.device).inputs["view"]).embedding.float().cpu()
            for part in sweep_parts(self.shards, {"view": view}, indices=picked.tolist())
        ])  # fmt: skip
        encoder.train()
        half = torch.arange(len(rows)) % 2 == 0
        answer = neighbours.classify(rows[half], label[half], rows[~half], neighbours=self.config.monitor.neighbours)
        return (answer == label[~half]).float().mean().item()


def _some(indices: Tensor, count: int) -> Tensor:
    """At most `count` of the indices, evenly spread."""
    return indices[torch.linspace(0, max(len(indices) - 1, 0), min(count, len(indices))).long()]
