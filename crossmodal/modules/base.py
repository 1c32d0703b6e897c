"""The module that is trained: a weighted sum of objectives, and their state."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from crossmodal.distributed import gather
from crossmodal.modules.gradient_cache import GradientAccumulator, go_cached
from crossmodal.objectives import Learner, Outcome


@dataclass(frozen=True)
class Losses:
    """The result of one forward pass: the weighted sum and each objective's outcome."""

    total: Tensor
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)  # scalars to log, detached; NaN: not defined for this batch

    def figures(self) -> dict[str, Tensor]:
        """Scalars for the log: every loss before its weight, and what the objectives add."""
        scalars = {"loss": self.total.detach()}
        for name, outcome in self.outcomes.items():
            scalars[name] = outcome.loss.detach()
            scalars |= {f"{name}.{key}": value for key, value in outcome.figures.items()}
        return scalars | self.others


def unreached(module: nn.Module, loss: Tensor) -> list[nn.Parameter]:
    """The trainable weights that get no gradient from this loss. Freeze them: DDP waits for their gradients."""
    trainable = [weight for weight in module.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
    return [weight for weight, gradient in zip(trainable, gradients, strict=True) if gradient is None]


def refuse_taken(name: str, what: str) -> None:
    """Refuses a name that is an attribute of `nn.ModuleDict`.

    Raises:
        ValueError: the name is taken.
    """
    if hasattr(nn.ModuleDict, name):
        raise ValueError(f"{what} cannot be called {name!r}; give it another name")


def why_not_alone(module: "TrainingModule") -> str | None:
    """The reason why a batch of one pair cannot train this module; None: it can."""
    for name, learner in module.learners.items():
        if learner.relates_pairs:
            return f"objective {name} compares them"
    mixes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    return "batch norm takes their mean and deviation" if mixes else None


class TrainingModule(nn.Module):
    """Everything that is trained, as the one module that DDP wraps. Its forward changes no state of objectives.

    Raises:
        ValueError: there is no objective, a weight is negative, all are 0, or a name is reserved by torch.
    """

    def __init__(self, learners: Mapping[str, Learner], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not learners:
            raise ValueError("objectives must name at least one objective")
        for name, weight in weights.items():
            refuse_taken(name, "an objective")
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of objective {name!r} must be at least 0 and finite, got {weight}")
        if not any(weights.values()):
            raise ValueError(f"all weights are 0 ({', '.join(weights)}), so nothing is trained; raise that of an "
                             "objective, or of its teachers")  # fmt: skip
        self.objectives = nn.ModuleDict({name.replace(".", "/"): learner for name, learner in learners.items()})
        self.learners, self.weights = dict(learners), dict(weights)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The encoders that are trained, by their names in messages."""
        raise NotImplementedError

    def finish_calibration(self) -> None:  # most modules need no calibration
        """Computes buffers of objectives from statistics that were measured before training."""

    def add_up(self, outcomes: dict[str, Outcome], **others: Tensor) -> Losses:
        """The weighted sum of the objectives' outcomes."""
        total = torch.stack([self.weights[name] * outcome.loss for name, outcome in outcomes.items()]).sum()
        return Losses(total, outcomes, others)

    def by_chunks(
        self, embed: Callable[[slice], Tensor], judge: Callable[[Tensor], Losses], rows: int, chunk: int
    ) -> Losses:
        """The losses of `judge` on all rows' embeddings, with the gradient of the whole batch; see `go_cached`."""
        judged: list[Losses] = []

        def total(embeddings: Tensor) -> Tensor:
            judged.append(judge(embeddings))
            return judged[0].total

        accumulator = GradientAccumulator(self)
        loss = go_cached(embed, total, rows, chunk=chunk, accumulator=accumulator)
        outcomes = {name: replace(outcome, loss=outcome.loss.detach()) for name, outcome in judged[0].outcomes.items()}
        return Losses(accumulator.hand_out(loss), outcomes, judged[0].others)

    def remember(self, losses: list[Losses]) -> None:
        """Call after the optimiser's step: hands each objective the step's memos of all ranks, in rank order."""
        for name, learner in self.learners.items():
            memos = [step.outcomes[name].memo for step in losses]
            if memos[0]:
                learner.remember(*(gather(torch.cat(rows)) for rows in zip(*memos, strict=True)))

    def memory(self) -> dict[str, Tensor]:
        """The state of all objectives, by "objective.name", as live tensors."""
        return {
            f"{name}.{key}": value for name, learner in self.learners.items() for key, value in learner.memory().items()
        }
