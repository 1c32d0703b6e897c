"""A student, and the objectives that compare it with its teachers."""

from dataclasses import dataclass

from torch import nn

from crossmodal.encoders._base import Encoder, Features
from crossmodal.minimised import Losses, Minimised
from crossmodal.objectives._base import Batch, Objective


@dataclass(frozen=True)
class Term:
    """An objective's place in the sum that is minimised."""

    objective: Objective
    weight: float = 1.0
    teacher: str | None = None  # whose features it compares with


class Transfer(Minimised):
    """Student and objectives. Teachers stay outside; their features come in.

    The student sees nothing, so that its running statistics stay, where no objective looks at it.

    Raises:
        ValueError: there is nothing to minimise, a weight is negative, or a name is one of torch's.
    """

    def __init__(self, student: Encoder, view: str, terms: dict[str, Term]) -> None:
        super().__init__(
            {name: term.objective for name, term in terms.items()}, {name: term.weight for name, term in terms.items()}
        )
        self.student, self.view, self.terms = student, view, terms
        self.uses_student = any(term.objective.uses_student for term in terms.values())

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The student."""
        return {"student": self.student}

    def forward(self, batch: Batch, teachers: dict[str, Features]) -> Losses:
        """The student's features meet each term's teacher; nothing is remembered."""
        student = self.student(batch.inputs[self.view]) if self.uses_student else None
        return self.add_up(
            {
                name: term.objective(student, teachers[term.teacher] if term.teacher else None, batch)
                for name, term in self.terms.items()
            }
        )
