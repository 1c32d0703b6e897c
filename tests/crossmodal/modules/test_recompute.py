"""Activation checkpointing changes no gradient, no running statistic and no random number."""

import copy

import pytest
import torch
from torch import nn

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder
from crossmodal.modules.recompute import recompute_blocks


def gradients(encoder: Encoder) -> list[torch.Tensor]:
    torch.manual_seed(1)
    features = encoder(torch.randn(4, 3, 32, 32))
    features.embedding.square().sum().backward()
    return [features.embedding, *(weight.grad for weight in encoder.parameters() if weight.grad is not None)]


def test_gradients_and_running_statistics_are_equal_to_the_bit() -> None:
    torch.manual_seed(0)
    plain = ENCODERS.get("cifar_resnet")((3, 32, 32), 0, depth=14)
    for block in plain.blocks:
        block.bn2 = nn.Sequential(block.bn2, nn.Dropout(0.5))  # draws again what it drew
    plain.blocks[1].bn1.eval()  # as where fewer than two pairs have a view
    lean = copy.deepcopy(plain)
    recompute_blocks(lean)
    plain_one, lean_one = gradients(plain), gradients(lean)
    assert len(plain_one) == len(lean_one) > 20
    assert all(map(torch.equal, plain_one, lean_one))
    buffers = list(zip(plain.buffers(), lean.buffers(), strict=True))
    assert len(buffers) > 20
    assert all(torch.equal(one, other) for one, other in buffers)


def test_only_the_inputs_of_blocks_are_stored() -> None:
    def stored(encoder: Encoder) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda item: sizes.append(item.numel()) or item, lambda x: x):
            encoder(torch.randn(8, 3, 32, 32))
        return sum(sizes)

    encoder = ENCODERS.get("cifar_resnet")((3, 32, 32), 0, depth=20)
    before = stored(encoder)
    recompute_blocks(encoder)
    assert stored(encoder) < before / 2


def test_an_encoder_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="ConvNet has no blocks whose activations could be computed again"):
        recompute_blocks(ENCODERS.get("convnet")((3, 32, 32)))
