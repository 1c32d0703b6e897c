"""Shared by objectives on class logits: the check of equal classes, and means over labelled rows."""

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.distributed import mean_over_ranks
from crossmodal.encoders import Spec
from crossmodal.objectives import Batch


def need_same_classes(name: str, student: Spec, teacher: Spec | None) -> None:
    """Refuses networks that do not have the same classes.

    Raises:
        ValueError: there is no teacher, or the numbers of classes differ or are 0. The message begins with `name`.
    """
    if teacher is None or not 0 < student.classes == teacher.classes:
        theirs = "no teacher" if teacher is None else f"a teacher with {teacher.classes}"
        raise ValueError(
            f"{name} compares class logits, so both must have the same classes; got a student with {student.classes} "
            f"and {theirs} (set teachers.NAME.classes for a published file, or use an objective on embeddings)"
        )


def mean_over_labelled(total: Float[Tensor, ""], batch: Batch) -> Float[Tensor, ""]:
    """Divides a sum over a batch's labelled rows by the mean count of labelled rows per micro-batch and rank.

    The mean of the results is the mean over all labelled rows of the step; 0 if the step has none.
    """
    labelled = (batch.label >= 0).sum().to(total) if batch.labelled is None else total.new_full((), batch.labelled)
    return total / mean_over_ranks(labelled).clamp(min=torch.finfo(total.dtype).tiny)
