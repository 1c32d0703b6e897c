"""Random numbers with an address, which do not depend on the device, the process or earlier draws."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15  # odd, so that different counters stay different
FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def generator(*address: int | str) -> torch.Generator:
    """A CPU generator that depends only on the address, as in `generator(seed, epoch, key, view)`.

    1 and "1" are different addresses. Torch uses 32 bits of a seed, so among 100,000 addresses about one pair gets the
    same numbers, which is harmless for augmentation.
    """
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def uniform_bits(seed: int, *counters: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Hashes of the broadcast counters: integers in [0, 2**53), equal on every device.

    It applies the finaliser of SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195, fig. 17) to the
    seed and to each counter in turn, so the order of the counters matters. Counters on a GPU are hashed there.
    """
    # the state is a CPU scalar, which GPU operators accept; moving it to the GPU would wait for queued work
    state = torch.tensor(_signed(_mix_seed(seed % 2**64)))
    for counter in counters:
        state = _mix(torch.add(state + _signed(GAMMA), counter.long(), alpha=_signed(GAMMA)))
    return _shift(state, 11)


def uniform(seed: int, *counters: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Float32 numbers in [0, 1) from `uniform_bits`: multiples of 2**-24, so they never round to 1."""
    return (uniform_bits(seed, *counters) >> 29).float() * 2.0**-24


def _mix_seed(state: int) -> int:
    for places, factor in zip((30, 27), FACTORS, strict=True):
        state = (state ^ state >> places) * factor % 2**64
    return state ^ state >> 31


def _mix(state: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    for places, factor in zip((30, 27), FACTORS, strict=True):
        state = _shift(state, places).bitwise_xor_(state).mul_(_signed(factor))
    return _shift(state, 31).bitwise_xor_(state)


def _shift(state: Int[Tensor, "*shape"], places: int) -> Int[Tensor, "*shape"]:
    """A logical right shift; `>>` on int64 would copy the sign bit."""
    return (state >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
