"""What is looked at while encoders are pretrained: kNN, diagnostics, and signs that something is wrong."""

import json
import sys
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
from pipelines.config.errors import printable
from pipelines.runs.folder import METRICS, RunFolder
from pipelines.schemas.pretrain import Config


@dataclass
class Monitor:
    """Adds figures to the log where an epoch ends, and warns of what the log says is wrong, each thing once."""

    run: RunFolder
    config: Config
    shards: Shards
    views: dict[str, View]
    encoders: dict[str, Encoder]
    device: torch.device
    told: set[str] = field(default_factory=set)  # problems, in this sitting

    def __call__(self, line: dict[str, float], *, before: int, epochs: int) -> dict[str, float]:
        """What a line of the log gets besides; `epochs` are over, of them `before` at the last line."""
        asked = self.config.monitor
        for problem in self._problems(line):
            if problem not in self.told:
                self.told.add(problem)
                told = f"{self.run.path}: step {line['step']:.0f}: {problem}"
                print(printable(told), file=sys.stderr, flush=True)
        due = epochs // asked.every > before // asked.every or before < epochs == self.config.train.epochs
        if not (asked.pairs and due):
            return {}
        found: dict[str, float] = {}
        for name, encoder in self.encoders.items():
            figures = self._figures(encoder, self.views[self.config.encoders[name].view])
            found |= {key if len(self.encoders) == 1 else f"{key}.{name}": value for key, value in figures.items()}
        return found

    def warnings(self) -> list[str]:
        """All that the log gave reason to warn of, in every sitting."""
        lines = (self.run.path / METRICS).read_text(encoding="utf-8").splitlines()
        return list(dict.fromkeys(problem for line in lines for problem in self._problems(json.loads(line))))

    def _problems(self, line: dict[str, float]) -> list[str]:
        return warn(line) if line["step"] >= self.config.monitor.after else []

    def _figures(self, encoder: Encoder, view: View) -> dict[str, float]:
        asked, label, figures = self.config.monitor, self._labels, {}
        member = self.shards.member(view.modality.field)
        there = torch.tensor([not self.shards.lacks(index, member) for index in range(len(label))])
        known = _some(((label >= 0) & there).nonzero().flatten(), asked.pairs)
        if len(known) > 1:
            figures["knn"] = self._neighbours(encoder, view, known, label[known])
        if asked.diagnostics:
            crop = self.config.train.crop
            picked = known if len(known) > 1 else _some(there.nonzero().flatten(), asked.pairs)
            figures |= diagnose_encoder(
                encoder, view, self.shards, picked.tolist(), device=self.device,
                crop=Crop(crop.scale, crop.ratio, crop.flip, shift=crop.shift),
            )  # fmt: skip
        return figures

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
    """At most so many of them, spread evenly."""
    return indices[torch.linspace(0, max(len(indices) - 1, 0), min(count, len(indices))).long()]
