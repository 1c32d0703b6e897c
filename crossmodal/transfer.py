"""All that is trained: a student, and the objectives with their heads."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from crossmodal.contrast.gather import gather
from crossmodal.encoders._base import Encoder, Features
from crossmodal.objectives._base import Batch, Objective, Outcome


@dataclass(frozen=True)
class Term:
    """An objective's place in the sum that is minimised."""

    objective: Objective
    weight: float = 1.0
    teacher: str | None = None  # whose features it compares with


@dataclass(frozen=True)
class Losses:
    """What one forward gives: the weighted sum, and each term's outcome."""

    total: Tensor
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def figures(self) -> dict[str, Tensor]:
        """Scalars for the log: every loss, unweighted, and what the objectives add."""
        found = {"loss": self.total.detach()}
        for name, outcome in self.outcomes.items():
            found[name] = outcome.loss.detach()
            found |= {f"{name}.{key}": value for key, value in outcome.figures.items()}
        return found


def unreached(module: nn.Module, loss: Tensor) -> list[nn.Parameter]:
    """The weights that ask for a gradient and get none of this loss; DDP waits for theirs, so freeze them."""
    asking = [weight for weight in module.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, asking, allow_unused=True)
    return [weight for weight, gradient in zip(asking, found, strict=True) if gradient is None]


class Transfer(nn.Module):
    """Student and objectives: the one module that DDP wraps. Teachers stay outside; their features come in.

    The student sees nothing, so that its running statistics stay, where no objective looks at it.

    Raises:
        ValueError: there is nothing to minimise, a weight is negative, or a name is one of torch's.
    """

    def __init__(self, student: Encoder, view: str, terms: dict[str, Term]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("objectives must name at least one objective")
        for name, term in terms.items():
            if hasattr(nn.ModuleDict, name):
                raise ValueError(f"an objective cannot be called {name!r}; give it another name")
            if term.weight < 0:
                raise ValueError(f"the weight of objective {name!r} must be at least 0, got {term.weight}")
        self.student, self.view = student, view
        self.objectives = nn.ModuleDict({name.replace(".", "/"): term.objective for name, term in terms.items()})
        self.terms = terms
        self.uses_student = any(term.objective.uses_student for term in terms.values())

    def forward(self, batch: Batch, teachers: dict[str, Features]) -> Losses:
        """The student's features meet each term's teacher; nothing is remembered."""
        student = self.student(batch.inputs[self.view]) if self.uses_student else None
        outcomes = {
            name: term.objective(student, teachers[term.teacher] if term.teacher else None, batch)
            for name, term in self.terms.items()
        }
        total = torch.stack([self.terms[name].weight * outcome.loss for name, outcome in outcomes.items()]).sum()
        return Losses(total, outcomes)

    def remember(self, losses: list[Losses]) -> None:
        """After the optimiser's step: hands each objective its memos of the step, from all ranks in the same order."""
        for name, term in self.terms.items():
            memos = [step.outcomes[name].memo for step in losses]
            if memos[0]:
                term.objective.remember(*(gather(torch.cat(rows)) for rows in zip(*memos, strict=True)))

    def memory(self) -> dict[str, Tensor]:
        """Everything that objectives remember, by "objective.name"; the live tensors."""
        return {
            f"{name}.{key}": value
            for name, term in self.terms.items()
            for key, value in term.objective.memory().items()
        }
