"""The embeddings of whole samples and of two random crops of each."""

import torch
from torch import Tensor

from crossmodal.data.reader import join, read_pair, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Encoder
from crossmodal.metrics.diagnostics import diagnose

BATCH = 256  # samples at a time


@torch.inference_mode()
def diagnose_encoder(
    encoder: Encoder, view: View, shards: Shards, indices: list[int], *, crop: Crop, device: torch.device
) -> dict[str, float]:
    """The metrics of `diagnose` on some pairs, with the same crops every time. The encoder's mode is restored.

    Raises:
        ShardError: a pair cannot be read.
    """
    was_training = encoder.training
    encoder.eval().to(device)
    found: list[Tensor] = []
    labels: list[Tensor] = []
    for seen, epoch in ((None, 0), (crop, 0), (crop, 1)):
        rows = []
        for start in range(0, len(indices), BATCH):
            parts = [
                read_pair(shards, {"view": view}, index, crop=seen, address=(0, epoch))
                for index in indices[start : start + BATCH]
            ]
            batch = to_batch(join(parts), {"view": view}, device)
            labels += [batch.label.cpu()] if seen is None else []
            rows.append(encoder(batch.inputs["view"]).embedding.float().cpu())
        found.append(torch.cat(rows))
    encoder.train(was_training)
    return diagnose(found[0], (found[1], found[2]), torch.cat(labels))
