"""Supervised cross-entropy at every pixel, with a decoder on the student's maps: trains a dense teacher."""

from typing import Literal

import torch
import torch.nn.functional as F

from crossmodal.distributed import mean_over_ranks
from crossmodal.encoders import Features, Spec
from crossmodal.modules.decoders import build_decoder
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen


class PixelCrossEntropy(Objective):
    """-log softmax(logits)[class] at each labelled pixel of a map of labels, mean over these of all ranks, in nats.

    A decoder maps the student's feature maps to logits, which are resized bilinearly to the label map. The loss is 0
    if no pixel has a label. The decoder is trained with the encoder, and is not exported.

    Raises:
        ValueError: the student has no maps, a chosen map does not exist, or an option is invalid.
    """

    uses_teacher = False
    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        classes: int = 2,  # number of classes of the label maps
        view: str = "labels",  # name of the view of label maps
        decoder: Literal["linear", "conv", "fpn"] = "linear",  # from maps to logits
        width: int = 128,  # channels of the decoders conv and fpn
        maps: list[int] | None = None,  # indices of the student's maps; null: all
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"pixel_cross_entropy needs classes of at least 2, got {classes}")
        count = len(student.maps)
        self.maps = [*range(count)] if maps is None else [*maps]
        if not self.maps or not all(0 <= number < count for number in self.maps):
            raise ValueError(f"pixel_cross_entropy: maps must be one or more of the student's {count} maps, from 0, "
                             f"got {self.maps}")  # fmt: skip
        self.reads, self.classes = view, classes
        self.decoder = build_decoder(decoder, [student.maps[number] for number in self.maps], classes, width=width)

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss, and the share of labelled pixels that are right, which is NaN if no pixel has a label."""
        assert self.reads is not None
        truth = batch.inputs[self.reads][:, 0].long()
        labelled = truth >= 0
        with torch.autocast(truth.device.type, enabled=False):
            logits = self.decoder([widen(student.maps[number]) for number in self.maps])
            logits = F.interpolate(logits, truth.shape[1:], mode="bilinear", align_corners=False)
            total = F.cross_entropy(logits, truth, ignore_index=-1, reduction="sum")
            loss = total / mean_over_ranks(labelled.sum().double()).clamp(min=1).to(total.dtype)
        right = (logits.detach().argmax(1) == truth) & labelled  # a selection would wait for a GPU
        return Outcome(loss, figures={"accuracy": right.sum().float() / labelled.sum().float()})
