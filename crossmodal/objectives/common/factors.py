"""Parts of factor transfer: stacks of convolutions, and the paraphraser of a teacher's map."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from crossmodal.encoders import Features
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import BatchNorm, widen


def convolve(*channels: int, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions from each number of channels to the next, each with a leaky ReLU; height and width are kept."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=not norm), BatchNorm(after) if norm else nn.Identity()]
        layers += [nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Paraphraser(Objective):
    """An autoencoder of the teacher's last map; squared error, mean over the batch and the map's entries.

    Encoder and decoder have three convolutions each, as published; without stride, transposed ones are convolutions.
    """

    uses_student = False

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = convolve(channels, channels, factors, factors)
        self.decoder = convolve(factors, factors, channels, channels)

    def forward(self, student: Features | None, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches only the paraphraser."""
        assert teacher is not None
        with torch.autocast(teacher.embedding.device.type, enabled=False):
            target = widen(teacher.maps[-1])
            return Outcome(F.mse_loss(self.decoder(self.encoder(target)), target))
