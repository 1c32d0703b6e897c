"""Noise-contrastive estimation between views, the first version of CMC (Tian et al. 2020)."""

from functools import partial

import torch
from torch import Tensor

from crossmodal.contrast.losses import nce
from crossmodal.contrast.options import Negatives
from crossmodal.multiview import Multiview, Pairings, Views
from crossmodal.multiview.common.pairwise import Pairwise
from crossmodal.objectives import Outcome


class NCE(Multiview):
    """Logistic regression: an anchor's own pair in another view against K pairs of a bank; in nats.

    ln Z has its closed form for random directions to second order (see the objective crd for when it is accurate); the
    published code measures it on its first batch.

    Source: https://arxiv.org/abs/1906.05849, section 3.4; memory bank and Z as in its published code.

    A pair that lacks one of two views is neither an anchor nor a candidate there.

    Raises:
        ValueError: an option is out of range.
    """

    log_z: Tensor  # ln(Z / N)

    masks = True

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        temperature: float = 0.07,  # divides cosines
        negatives: Negatives = Negatives(),  # source of negatives; default: a bank
    ) -> None:
        super().__init__()
        self.pairwise = Pairwise(
            "nce", dim, pairings, pairs, temperature=temperature, negatives=negatives, default="bank"
        )
        self.needs_labels = self.pairwise.needs_labels
        self.count = negatives.count if self.pairwise.negatives.source == "bank" else None
        self.register_buffer("log_z", torch.tensor(1 / (2 * dim * temperature**2)), persistent=False)

    def forward(self, views: Views) -> Outcome:
        """The loss, a sum over negatives and a mean over anchors."""
        return self.pairwise.contrast(partial(nce, negatives=self.count), views, self.log_z)

    def remember(self, *memo: Tensor) -> None:
        """Stores every view in its bank or queue."""
        self.pairwise.pools.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """The state of the banks or queues; empty without them."""
        return self.pairwise.pools.memory()
