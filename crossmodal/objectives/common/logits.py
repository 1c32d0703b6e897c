"""What objectives on class logits share: that both networks tell the same classes apart, and means over labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.distributed import mean_over_ranks
from crossmodal.encoders import Spec
from crossmodal.objectives import Batch


def need_same_classes(name: str, student: Spec, teacher: Spec | None) -> None:
    """Refuses networks without the same classes.

    Raises:
        ValueError: there is no teacher, or the numbers of classes differ or are 0. The message begins with `name`.
    """
    if teacher is None or not 0 < student.classes == teacher.classes:
        theirs = "no teacher" if teacher is None else f"a teacher with {teacher.classes}"
        raise ValueError(
            f"{name} compares class logits, so both must have the same classes; got a student with {student.classes} "
            f"and {theirs} (teachers.NAME.classes is that of a published file; or take an objective on embeddings)"
        )


def mean_over_labelled(total: Float[Tensor, ""], batch: Batch) -> Float[Tensor, ""]:
    """A sum over the labelled rows of a batch -> its share in their mean over all parts and ranks of the step.

    The mean of these shares is that mean, however many labelled rows each part has; 0 where the step has none.
    """
    labelled = (batch.label >= 0).sum().to(total) if batch.labelled is None else total.new_full((), batch.labelled)
    return total / mean_over_ranks(labelled).clamp(min=torch.finfo(total.dtype).tiny)
