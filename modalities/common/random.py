"""Random numbers with an address: equal wherever, whenever and in whatever company they are drawn."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15  # odd, so that counters never fall together
FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def generator(*address: int | str) -> torch.Generator:
    """A generator on the CPU that depends on the address alone, as in `generator(seed, epoch, key, view)`.

    Parts count by value and type: 1 and "1" are two addresses. Torch keeps 32 bits of a seed, so of 100,000 addresses
    about one pair shares its numbers; for augmentation that is harmless.
    """
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def uniform_bits(seed: int, *counters: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Hashes of the broadcast counters: integers in [0, 2**53), equal on every device.

    The finaliser of SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195, fig. 17), once for the
    seed and once for each counter: the position of a counter matters, and `counters` on a GPU are hashed there.
    """
    # the seed's state has no dimension, so a GPU takes it as a bare number: moving it there would wait for queued work
    state = torch.tensor(_signed(_mix_seed(seed % 2**64)))
    for counter in counters:
        state = _mix(torch.add(state + _signed(GAMMA), counter.long(), alpha=_signed(GAMMA)))
    return _shift(state, 11)


def uniform(seed: int, *counters: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Float32 numbers in [0, 1) from `uniform_bits`: multiples of 2**-24, so that 1 is never reached."""
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
    """Shifts right without copying the sign, which `>>` on int64 does."""
    return (state >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
