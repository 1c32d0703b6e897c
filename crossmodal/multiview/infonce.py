"""InfoNCE between views (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4)."""

import torch
from torch import Tensor

from crossmodal.contrast.losses import infonce
from crossmodal.contrast.options import Negatives
from crossmodal.multiview import Multiview, Pairings, Views
from crossmodal.multiview.common.pairwise import Pairwise
from crossmodal.objectives import Outcome


class InfoNCE(Multiview):
    """-ln softmax of an anchor's own pair in another view, among other pairs; in nats.

    With two looks of one encoder and negatives of every view it is NT-Xent, the loss of SimCLR (Chen et al. 2020,
    https://arxiv.org/abs/2002.05709, eq. 1). With momentum keys it is MoCo's (He et al. 2020,
    https://arxiv.org/abs/1911.05722, eq. 1), from a queue, or of v3, gathered. Over views of several modalities it is
    CMC's (Tian et al. 2020, https://arxiv.org/abs/1906.05849, eq. 4), whose code draws negatives from a bank.

    A pair that lacks one of two views is no anchor there, and what it lacks is no candidate.

    Raises:
        ValueError: an option is out of its range, or contradicts another.
    """

    masks = True

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        temperature: float = 0.1,  # divides cosines
        negatives: Negatives = Negatives(),  # where they come from; the default source is gathered
        every_view: bool | None = None,  # negatives of all views, not only of the other one; null: if of the batch
    ) -> None:
        super().__init__()
        self.pairwise = Pairwise("infonce", dim, pairings, pairs, temperature=temperature, negatives=negatives,
                                 default="gathered", every_view=every_view)  # fmt: skip
        self.needs_labels, self.reads_every_key = self.pairwise.needs_labels, self.pairwise.every_view

    def forward(self, views: Views) -> Outcome:
        """The loss; gradient reaches the queries, and the keys where they are live."""
        return self.pairwise.contrast(infonce, views, torch.zeros_like(self.pairwise.scale))

    def remember(self, *memo: Tensor) -> None:
        """Queues or banks learn every view."""
        self.pairwise.pools.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """Queues or banks, if that is where negatives come from."""
        return self.pairwise.pools.memory()
