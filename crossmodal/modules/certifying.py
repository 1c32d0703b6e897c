"""Training encoders for a risk certificate: first the prior, then a posterior with a penalty for leaving the prior."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.certificates.bounds import catoni_objective
from crossmodal.certificates.gaussians import ScaleGrid, kl_divergence, spherical
from crossmodal.certificates.posterior import GaussianPosterior
from crossmodal.certificates.tuples import Tuples
from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.modules.base import Losses, TrainingModule, unreached
from crossmodal.objectives import Batch, Learner, Objective, Outcome

Network = Encoder | GaussianPosterior


@dataclass(frozen=True)
class Penalty:
    """The cost of leaving the prior in training: ( KL + union + ln(1 / delta) ) / trade_off."""

    trade_off: float  # lambda
    delta: float
    grid: ScaleGrid | None  # grid of the prior's scales; None: the scale is fixed, and no union is paid

    def __call__(self, network: GaussianPosterior, loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with its penalty, and figures for the log; a learned scale stays below the grid's limit."""
        std, union = network.log_prior_std.double().exp(), loss.new_zeros(())
        if self.grid is not None:
            std = std.clamp(max=self.grid.std(1).item())
            union = self.grid.union(self.grid.index(std))
        kl = kl_divergence(network.posterior, spherical(network.prior_mean, std))
        total = catoni_objective(loss, kl, trade_off=self.trade_off, delta=self.delta, union=union)
        return total.float(), {"kl": kl.detach(), "union": union.detach(), "prior_std": std.detach()}


@dataclass(frozen=True)
class ExampleViews:
    """The two sides of a batch's examples: anchors, embedded by the network, and the others."""

    anchor: str  # view of the anchors
    other: str  # view of positives and negatives; may be the same
    fixed: Callable[[Batch], Tensor] | None = None  # embeds the others with a frozen teacher; None: the network does

    def embed(self, encode: Callable[[Tensor], Features], batch: Batch) -> tuple[Tensor, Tensor]:
        """The embeddings of both sides, in float32."""
        anchors = encode(batch.inputs[self.anchor]).embedding.float()
        if self.fixed is not None:
            return anchors, self.fixed(batch)
        others = anchors if self.other == self.anchor else encode(batch.inputs[self.other]).embedding.float()
        return anchors, others


class Certifying(TrainingModule):
    """A network that learns from contrastive examples; a stochastic network draws new weights at each step.

    One draw serves a step, as in the source; see `crossmodal.certificates.tuples`.
    """

    def __init__(self, network: Network, tuples: Tuples, views: ExampleViews, penalty: Penalty | None = None) -> None:
        super().__init__({"tuples": Learner()}, {"tuples": 1.0})
        self.network, self.tuples, self.views, self.penalty = network, tuples, views, penalty

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The network."""
        return {"encoder": self.network}

    def forward(self, batch: Batch) -> Losses:
        """The loss of the batch's examples, with a posterior's penalty."""
        network = self.network
        weights = network.draw() if isinstance(network, GaussianPosterior) else None

        def encode(inputs: Tensor) -> Features:
            return network(inputs) if weights is None else network(inputs, weights)

        anchors, others = self.views.embed(encode, batch)
        loss, certified = self.tuples.trained(anchors, others, batch.index, batch.label, batch.seed)
        losses = self.add_up({"tuples": Outcome(loss)}, risk=certified)
        if self.penalty is None:
            return losses
        assert isinstance(network, GaussianPosterior)
        total, figures = self.penalty(network, losses.total)
        return Losses(total, losses.outcomes, losses.others | figures)


class Projected(Encoder):
    """A student with the head that compares it with its teacher, as one encoder; weights without effect are frozen.

    Raises:
        ValueError: the objective has no common space.
    """

    leaves = False
    nothing: Tensor

    def __init__(self, student: Encoder, head: Objective, teacher_dim: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.student, self.head, self.spec = student, head, student.spec
        self.register_buffer("nothing", torch.zeros(1, teacher_dim), persistent=False)
        self.eval()
        for weight in unreached(self, self(torch.zeros(2, *shape)).embedding.sum()):
            weight.requires_grad_(False)

    def forward(self, batch: Tensor, leave: Leave = stay) -> Features:
        """The student's features, with the embedding projected into the common space."""
        features = self.student(batch, leave)
        sides = self.head.project(features, Features(self.nothing.expand(len(batch), -1), (), None))
        if sides is None:
            raise ValueError("the student's objective has no common space for student and teacher")
        return features._replace(embedding=sides[0])


@torch.no_grad()
def project_teacher(head: Objective, student_dim: int, teacher: Features) -> Float[Tensor, "batch dim"]:
    """The teacher's side in the common space."""
    nobody = Features(teacher.embedding.new_zeros(len(teacher.embedding), student_dim), (), None)
    sides = head.project(nobody, teacher)
    assert sides is not None
    return sides[1].float()
