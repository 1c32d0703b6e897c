"""Contrastive examples whose risk is certified: the pairs of an example, and its losses.

An example is an anchor, a block of positives and blocks of negatives; for the SimCLR loss it is a whole small batch.
Certified examples share no pair, because a bound counts independent ones. The classes of an example are drawn by the
frequencies of the labels; given the labels, examples are independent, and the certified risk is the expectation over
other pairs of the same classes.

Source: Nozawa, Germain, Guedj 2020, https://arxiv.org/abs/1910.04464, after Arora et al. 2019,
https://arxiv.org/abs/1902.09229. Their experiments count 50,000 tuples of 50,000 images, which overlap.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.certificates.simclr import simclr_range
from modalities.common.random import generator


def margins(
    anchors: Float[Tensor, "n dim"],
    positives: Float[Tensor, "n block dim"],
    negatives: Float[Tensor, "n negatives block dim"],
) -> Float[Tensor, "n negatives"]:
    """v_i = anchor . (mean of positives - mean of the i-th block of negatives)."""
    return torch.einsum("nd,nkd->nk", anchors, positives.mean(1, keepdim=True) - negatives.mean(2))


def zero_one(found: Float[Tensor, "n negatives"]) -> Float[Tensor, " n"]:
    """The share of negatives with v_i <= 0, those that are no farther than the positives."""
    return (found <= 0).to(found.dtype).mean(1)


def logistic(found: Float[Tensor, "n negatives"]) -> Float[Tensor, " n"]:
    """log2(1 + sum_i exp(-v_i)), an upper bound of the zero-one loss."""
    return torch.cat([found.new_zeros(len(found), 1), -found], dim=1).logsumexp(1) / math.log(2)


def hinge(found: Float[Tensor, "n negatives"]) -> Float[Tensor, " n"]:
    """max(0, 1 - min_i v_i)."""
    return (1 - found.amin(1)).relu()


def simclr(
    anchors: Float[Tensor, "n pairs dim"], others: Float[Tensor, "n pairs dim"], temperature: float
) -> Float[Tensor, " n"]:
    """The mean over each small batch's pairs of -ln( exp(s_ii / tau) / sum_j exp(s_ij / tau) ), s the cosines."""
    scores = F.normalize(anchors, dim=-1) @ F.normalize(others, dim=-1).transpose(1, 2) / temperature
    own = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    return F.cross_entropy(scores.flatten(0, 1), own.flatten(), reduction="none").unflatten(0, own.shape).mean(1)


@dataclass(frozen=True)
class Tuples:
    """The pairs of an example, and its losses.

    Attributes:
        positives: class: other pairs of the anchor's class; pair: the anchor's own pair, in another crop or sensor.
        loss: The training loss; logistic and hinge are certified as zero-one, simclr as itself.
        negatives: Blocks of negatives; for simclr, the batch's pairs minus one.
        block: Pairs whose embeddings are averaged, of positives and of negatives; 1 for `pair`.
        scale: Factor of the margins in training; for simclr, one over the temperature.

    Raises:
        ValueError: a number is out of range, or two options contradict each other.
    """

    positives: Literal["class", "pair"] = "class"
    loss: Literal["logistic", "hinge", "simclr"] = "logistic"
    negatives: int = 4
    block: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.negatives < 1 or self.block < 1 or not 0 < self.scale < math.inf:
            raise ValueError(f"negatives and block must be at least 1 and scale above 0, got {self.negatives}, "
                             f"{self.block} and {self.scale}")  # fmt: skip
        if self.positives == "pair" and self.block != 1:
            raise ValueError(f"block must be 1 where a positive is the anchor's own pair, got {self.block}")
        if self.positives == "class" and self.loss == "simclr":
            raise ValueError("loss simclr takes the anchor's own pair as the positive, not its class")

    @property
    def pairs(self) -> int:
        """The number of different pairs in an example."""
        return 1 + (self.block if self.positives == "class" else 0) + self.negatives * self.block

    @property
    def greatest(self) -> float:
        """The upper limit of the certified loss."""
        return simclr_range(1 / self.scale, self.pairs) if self.loss == "simclr" else 1.0

    def disjoint(self, labels: Int[Tensor, " all"], seed: int) -> Int[Tensor, "examples pairs"]:
        """Examples that share no pair, as positions: the anchor, its positives (of its class), the negatives.

        Raises:
            ValueError: the pairs are too few for one example.
        """
        random = generator(seed, "tuples")
        if self.positives == "pair":
            order = torch.randperm(len(labels), generator=random)
            examples = order[: len(order) // self.pairs * self.pairs].view(-1, self.pairs)
        else:
            examples = self._of_classes(labels, random)
        if not len(examples):
            raise ValueError(f"{len(labels)} pairs are too few for one example of {self.pairs} (of the right classes "
                             "with positives: class); use more pairs, or lower tuples.negatives")  # fmt: skip
        return examples

    def within(
        self, index: Int[Tensor, " batch"], labels: Int[Tensor, " batch"], seed: int
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, "n block"], Int[Tensor, "n negatives block"]]:
        """Examples that share the pairs of a training batch; anchors whose class is too rare in it are left out.

        A pair may be in a batch twice, as a replacement for an unreadable one. It is then neither a positive nor a
        negative of itself: anchors for which it was drawn as a negative are left out, too.
        """
        random, count = generator(seed, "batch"), len(labels)
        rows, labels, index = torch.arange(count), labels.cpu(), index.cpu()
        apart = index != index[:, None]
        if self.positives == "pair":
            steps = torch.randint(1, max(count, 2), (count, self.negatives, 1), generator=random)
            drawn = (rows[:, None, None] + steps) % count
            stays = apart[rows[:, None, None], drawn].all((1, 2)).nonzero()[:, 0]
            return stays, stays[:, None], drawn[stays]
        known = labels >= 0
        same = (labels == labels[:, None]) & known & apart
        positives, enough = self._pick(same, random)
        drawn = torch.randint(1, max(count, 2), (count, self.negatives), generator=random)
        of_class = labels == labels[(rows[:, None] + drawn) % count][:, :, None]
        of_class &= (apart & known)[:, None]  # [anchors, negatives, rows]
        negatives, also = self._pick(of_class, random)
        stays = (enough & also.all(1)).nonzero()[:, 0]
        return stays, positives[stays], negatives[stays]

    def certified(
        self, anchors: Float[Tensor, "n pairs dim"], others: Float[Tensor, "n pairs dim"]
    ) -> Float[Tensor, " n"]:
        """The loss of `disjoint` examples, from 0 to `greatest`, from the embeddings of their pairs on both sides."""
        if self.loss == "simclr":
            return simclr(anchors, others, 1 / self.scale)
        first = 1 if self.positives == "class" else 0
        start = first + self.block
        negatives = others[:, start:].unflatten(1, (self.negatives, self.block))
        return zero_one(margins(anchors[:, 0], others[:, first:start], negatives))

    def trained(
        self,
        anchors: Float[Tensor, "batch dim"],
        others: Float[Tensor, "batch dim"],
        index: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
        seed: int,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The training loss of a batch, and the certified loss of its examples without gradient."""
        if self.loss == "simclr":
            first = ~(index == index[:, None]).tril(-1).any(1)  # a pair that occurs twice would be its own negative
            loss = simclr(anchors[first][None], others[first][None], 1 / self.scale).squeeze()
            return loss, loss.detach()
        rows, positives, negatives = (each.to(anchors.device) for each in self.within(index, labels, seed))
        values = margins(anchors[rows], others[positives], others[negatives]) * self.scale
        loss = logistic(values) if self.loss == "logistic" else hinge(values)
        share = 1 / max(len(rows), 1)  # a batch without an example has loss 0
        return loss.sum() * share, zero_one(values.detach()).sum() * share

    def _of_classes(self, labels: Tensor, random: torch.Generator) -> Int[Tensor, "examples pairs"]:
        """Draws classes for every example, then pairs of these; examples whose classes are used up are left out."""
        known = labels[labels >= 0]
        tries, count = 2 * (len(known) // self.pairs), int(labels.max()) + 1
        if not tries:
            return torch.empty(0, self.pairs, dtype=torch.long)
        classes = known[torch.randint(len(known), (tries, 1 + self.negatives), generator=random)]
        sizes = torch.tensor([1 + self.block] + [self.block] * self.negatives)
        wanted = classes.repeat_interleave(sizes, dim=1)  # the class of every pair of every example
        stock = [members[torch.randperm(len(members), generator=random)] for members in
                 ((labels == label).nonzero()[:, 0] for label in range(count))]  # fmt: skip
        left, made = torch.tensor([len(members) for members in stock]), []
        for needs in F.one_hot(wanted, count).sum(1):
            made.append(bool((needs <= left).all()))
            left -= needs * made[-1]
        wanted = wanted[torch.tensor(made)]
        examples = torch.empty_like(wanted)
        for label, members in enumerate(stock):
            places = wanted == label
            examples[places] = members[: int(places.sum())]
        return examples

    def _pick(self, allowed: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A block of different allowed columns for every row, and a mask of rows with enough of them."""
        lots = torch.rand(allowed.shape, generator=random).masked_fill(~allowed, -1)
        best = lots.topk(min(self.block, allowed.shape[-1]), dim=-1)
        return best.indices, (best.values >= 0).all(-1) & (allowed.sum(-1) >= self.block)
