"""InfoNCE between views (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4)."""

import torch
from torch import Tensor

from crossmodal.contrast.losses import infonce
from crossmodal.contrast.options import Negatives
from crossmodal.multiview import Multiview, Pairings, Views
from crossmodal.multiview.common.pairwise import Pairwise
from crossmodal.objectives import Outcome


class InfoNCE(Multiview):
    """-ln softmax of an anchor's own pair in another view, against other pairs; in nats.

    With two crops, one encoder and negatives of every view it is NT-Xent, the loss of SimCLR (Chen et al. 2020,
    https://arxiv.org/abs/2002.05709, eq. 1). With momentum keys it is the loss of MoCo (He et al. 2020,
    https://arxiv.org/abs/1911.05722, eq. 1) from a queue, and of MoCo v3 gathered. Over several modalities it is CMC
    (Tian et al. 2020, https://arxiv.org/abs/1906.05849, eq. 4), whose code draws negatives from a bank.

    A pair that lacks one of two views is neither an anchor nor a candidate there.

    Raises:
        ValueError: an option is out of range, or contradicts another.
    """

    masks = True

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        temperature: float = 0.1,  # divides cosines
        negatives: Negatives = Negatives(),  # source of negatives; default: gathered
        every_view: bool | None = None,  # negatives from all views, not only one; null: for batch and gathered
    ) -> None:
        super().__init__()
        self.pairwise = Pairwise("infonce", dim, pairings, pairs, temperature=temperature, negatives=negatives,
                                 default="gathered", every_view=every_view)  # fmt: skip
        self.needs_labels, self.reads_every_key = self.pairwise.needs_labels, self.pairwise.every_view

    def forward(self, views: Views) -> Outcome:
        """The loss; gradient reaches the queries, and the keys where they are live."""
        return self.pairwise.contrast(infonce, views, torch.zeros_like(self.pairwise.scale))

    def remember(self, *memo: Tensor) -> None:
        """Stores every view in its queue or bank."""
        self.pairwise.pools.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """The state of the queues or banks; empty without them."""
        return self.pairwise.pools.memory()
