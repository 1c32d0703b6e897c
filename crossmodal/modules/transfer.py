"""A student and the objectives that compare it with its teachers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features
from crossmodal.modules.base import Losses, TrainingModule
from crossmodal.modules.gradient_cache import refuse_norms
from crossmodal.objectives import Batch, Objective


@dataclass(frozen=True)
class Term:
    """An objective in the weighted sum."""

    objective: Objective
    weight: float = 1.0
    teacher: str | None = None  # the teacher to compare with; None: without one


class Transfer(TrainingModule):
    """Student and objectives. Teachers stay outside; forward takes their features.

    If no objective uses the student, it is not run, so its running statistics do not change. With `chunk`, the student
    sees that many pairs at a time, and the objectives get embeddings and logits of the whole batch, but no maps.

    Raises:
        ValueError: there is no objective, a weight is negative, all are 0, a name is reserved by torch, or `chunk` is
            combined with batch normalisation.
    """

    def __init__(self, student: Encoder, view: str, terms: dict[str, Term], *, chunk: int | None = None) -> None:
        super().__init__(
            {name: term.objective for name, term in terms.items()}, {name: term.weight for name, term in terms.items()}
        )
        self.student, self.view, self.terms = student, view, terms
        self.uses_student = any(term.objective.uses_student for term in terms.values())
        self.chunk, self.is_frozen = chunk, False
        if chunk is not None:
            refuse_norms(student)

    def freeze_trunk(self) -> None:
        """From now on only the student's classifier is trained; the student stays in eval mode.

        Raises:
            ValueError: the student has no classifier.
        """
        if not self.student.spec.classes:
            raise ValueError("freeze: trunk trains the classifier alone, but no objective needs one; add cross_entropy")
        for name, weight in self.student.named_parameters():
            weight.requires_grad_(name.startswith(f"trunk.{self.student.classifier}"))
        self.is_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Transfer":
        """As torch's, but a frozen student stays in eval mode, so that its running statistics do not change."""
        super().train(mode)
        if self.is_frozen:
            self.student.eval()
        return self

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The student."""
        return {"student": self.student}

    @property
    def needs_calibration(self) -> bool:
        """True if `calibrate` must see some batches before training."""
        return any(term.objective.needs_calibration for term in self.terms.values())

    @property
    def reads(self) -> set[str]:
        """The views that objectives read themselves."""
        return {term.objective.reads for term in self.terms.values() if term.objective.reads is not None}

    @torch.no_grad()
    def calibrate(self, teachers: dict[str, Features]) -> None:
        """Adds a batch of the teachers' features to the statistics of the objectives that need them."""
        for term in self.terms.values():
            if term.objective.needs_calibration:
                assert term.teacher is not None
                term.objective.calibrate(teachers[term.teacher])

    def finish_calibration(self) -> None:
        """Computes the objectives' buffers from these statistics.

        Raises:
            ValueError: the features cannot be used; the message names the objective.
        """
        for name, term in self.terms.items():
            if term.objective.needs_calibration:
                try:
                    term.objective.finish_calibration()
                except ValueError as error:
                    raise ValueError(f"objectives.{name}: {error}") from error

    def forward(self, batch: Batch, teachers: dict[str, Features]) -> Losses:
        """Compares the student's features with each term's teacher."""
        inputs, spec = batch.inputs[self.view], self.student.spec
        if self.chunk is None or not self.uses_student or not torch.is_grad_enabled():
            return self._compare(self.student(inputs) if self.uses_student else None, batch, teachers)

        def embed(piece: slice) -> Tensor:
            features = self.student(inputs[piece])
            return torch.cat([part for part in (features.embedding, features.logits) if part is not None], 1)

        def judge(rows: Tensor) -> Losses:
            embedding, logits = rows.split([spec.dim, spec.classes], 1)
            return self._compare(Features(embedding, (), logits if spec.classes else None), batch, teachers)

        return self.by_chunks(embed, judge, len(batch.index), self.chunk)

    def _compare(self, student: Features | None, batch: Batch, teachers: dict[str, Features]) -> Losses:
        return self.add_up(
            {
                name: term.objective(student, teachers[term.teacher] if term.teacher else None, batch)
                for name, term in self.terms.items()
            }
        )
