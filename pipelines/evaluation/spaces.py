"""The spaces in which a student and its teacher are compared."""

import torch
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.evaluation import Network
from crossmodal.metrics import retrieval
from crossmodal.models import Model

MAP = "map"  # the linear map's; the others have the names of their objectives


def spaces_of(
    model: Model | None, seen: Network, teacher: Network, name: str | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Both sides of the test pairs: in the spaces that objectives trained with the teacher `name`, and mapped."""
    heads = {} if model is None else in_heads(model, seen.test, teacher.test, name)
    return {**heads, MAP: linear_map(seen, teacher)}


@torch.inference_mode()
def in_heads(model: Model, student: Features, teacher: Features, name: str | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Both sides in the space of each objective that has one with the teacher `name`."""
    found = {key: head.project(student, teacher) for key, head in model.heads.items()
             if model.card.heads[key].teacher == name}  # fmt: skip
    return {key: both for key, both in found.items() if both is not None}


def heads_of(model: Model, teacher: Spec, name: str) -> list[str]:
    """The objectives of a student that have a space with the teacher `name`."""
    student, theirs = (Features(torch.zeros(1, spec.dim), (), None) for spec in (model.encoder.spec, teacher))
    return [*in_heads(model, student, theirs, name)]


def linear_map(seen: Network, teacher: Network) -> tuple[Tensor, Tensor]:
    """Both sides of the test pairs in the teacher's centred space, by a ridge map fitted on the training pairs."""
    centre = teacher.train.embedding.mean(0)
    weights = retrieval.ridge(seen.train.embedding, teacher.train.embedding - centre)
    return retrieval.apply_map(seen.test.embedding, weights), teacher.test.embedding - centre
