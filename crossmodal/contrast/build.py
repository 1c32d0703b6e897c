"""Builds pools from options."""

from typing import Literal

import torch

from crossmodal.contrast.bank import Bank
from crossmodal.contrast.in_batch import InBatch
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Pool, Relation
from crossmodal.contrast.queue import Queue


def build_pool(
    options: Negatives,
    relation: Relation,
    pairs: int,
    dim: int,
    *,
    name: str,
    match: Literal["bank", "live", "related"] = "bank",
    eager: bool = False,
) -> Pool:
    """The pool of one side; only a bank uses `match`, `eager` and `pairs`."""
    if options.source == "queue":
        return Queue(relation, options.count, dim, dtype=getattr(torch, options.dtype))
    if options.source == "bank":
        return Bank(relation, pairs, dim, options, name=name, match=match, eager=eager)
    return InBatch(relation, gathered=options.source == "gathered")
