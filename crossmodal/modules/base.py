"""What is minimised: terms of a weighted sum, and what they remember."""

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
    """What one forward gives: the weighted sum, and each term's outcome."""

    total: Tensor
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)  # scalars to log, detached; NaN: this batch has none

    def figures(self) -> dict[str, Tensor]:
        """Scalars for the log: every loss, unweighted, and what the objectives add."""
        found = {"loss": self.total.detach()}
        for name, outcome in self.outcomes.items():
            found[name] = outcome.loss.detach()
            found |= {f"{name}.{key}": value for key, value in outcome.figures.items()}
        return found | self.others


def unreached(module: nn.Module, loss: Tensor) -> list[nn.Parameter]:
    """The weights that ask for a gradient and get none of this loss; DDP waits for theirs, so freeze them."""
    asking = [weight for weight in module.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, asking, allow_unused=True)
    return [weight for weight, gradient in zip(asking, found, strict=True) if gradient is None]


def refuse_taken(name: str, what: str) -> None:
    """Refuses a name that a dictionary of modules has for itself.

    Raises:
        ValueError: it is one.
    """
    if hasattr(nn.ModuleDict, name):
        raise ValueError(f"{what} cannot be called {name!r}; give it another name")


def why_not_alone(module: "TrainingModule") -> str | None:
    """What makes a batch of one pair useless to train by; None: nothing does."""
    for name, learner in module.learners.items():
        if learner.relates_pairs:
            return f"objective {name} compares them"
    mixes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    return "batch norm takes their mean and deviation" if mixes else None


class TrainingModule(nn.Module):
    """All that is trained: the one module that DDP wraps. Nothing is remembered in its forward.

    Raises:
        ValueError: there is nothing to minimise, a weight is negative, all are 0, or a name is one of torch's.
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
            raise ValueError(f"nothing is trained where all weights are 0 ({', '.join(weights)}); raise that of an "
                             "objective, or of its teachers")  # fmt: skip
        self.objectives = nn.ModuleDict({name.replace(".", "/"): learner for name, learner in learners.items()})
        self.learners, self.weights = dict(learners), dict(weights)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The encoders that are trained, by what messages call them."""
        raise NotImplementedError

    def add_up(self, outcomes: dict[str, Outcome], **others: Tensor) -> Losses:
        """The weighted sum of the terms' outcomes."""
        total = torch.stack([self.weights[name] * outcome.loss for name, outcome in outcomes.items()]).sum()
        return Losses(total, outcomes, others)

    def by_chunks(
        self, embed: Callable[[slice], Tensor], judge: Callable[[Tensor], Losses], rows: int, chunk: int
    ) -> Losses:
        """What `judge` says of all rows' embeddings, with the gradient of the whole batch; see `go_cached`."""
        said: list[Losses] = []

        def total(embeddings: Tensor) -> Tensor:
            said.append(judge(embeddings))
            return said[0].total

        accumulator = GradientAccumulator(self)
        loss = go_cached(embed, total, rows, chunk=chunk, accumulator=accumulator)
        outcomes = {name: replace(outcome, loss=outcome.loss.detach()) for name, outcome in said[0].outcomes.items()}
        return Losses(accumulator.hand_out(loss), outcomes, said[0].others)

    def remember(self, losses: list[Losses]) -> None:
        """After the optimiser's step: hands each objective its memos of the step, from all ranks in the same order."""
        for name, learner in self.learners.items():
            memos = [step.outcomes[name].memo for step in losses]
            if memos[0]:
                learner.remember(*(gather(torch.cat(rows)) for rows in zip(*memos, strict=True)))

    def memory(self) -> dict[str, Tensor]:
        """Everything that objectives remember, by "objective.name"; the live tensors."""
        return {
            f"{name}.{key}": value for name, learner in self.learners.items() for key, value in learner.memory().items()
        }
