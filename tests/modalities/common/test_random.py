"""Addressed random numbers: the published algorithm, uniformity, and independence of company."""

import pytest
import torch

from modalities.common.random import generator, uniform, uniform_bits

GAMMA, LOW64 = 0x9E3779B97F4A7C15, 2**64 - 1


def splitmix(state: int) -> int:
    """SplitMix64's finaliser in Python's unbounded integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & LOW64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & LOW64
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63, 2**64 + 7])
def test_bits_follow_splitmix64(seed):
    rows, columns = torch.tensor([[0], [5], [-3]]), torch.tensor([0, 2**40, 2**62 + 1])

    bits = uniform_bits(seed, rows, columns)

    for i, row in enumerate(rows.flatten().tolist()):
        for j, column in enumerate(columns.tolist()):
            state = splitmix(seed & LOW64)
            for counter in (row, column):
                state = splitmix((state + (counter + 1) * GAMMA) & LOW64)
            assert bits[i, j] == state >> 11


def test_bits_never_change_between_releases():
    # stepwise values of splitmix() above; also the published first output of SplitMix64 for state 0
    assert splitmix(GAMMA) == 0xE220A8397B1DCDAF
    assert uniform_bits(0, torch.arange(2)).tolist() == [0xE220A8397B1DCDAF >> 11, 0x6E789E6AA1B965F4 >> 11]


def test_uniform_fills_its_range_evenly():
    numbers = uniform(3, torch.arange(100_000))

    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()

    assert numbers.min() >= 0 and numbers.max() < 1
    assert 60 < chi_square < 150  # 99 degrees of freedom: 99 +- 3.6 times 14


@pytest.mark.parametrize("lag", [1, 2, 64])
def test_consecutive_counters_are_independent(lag):
    numbers = uniform(3, torch.arange(100_000))

    pairs = torch.stack([numbers[:-lag], numbers[lag:]])
    cells = (pairs[0] * 10).long() * 10 + (pairs[1] * 10).long()
    expected = pairs.shape[1] / 100

    assert torch.corrcoef(pairs)[0, 1].abs() < 0.013  # 4 / sqrt(100,000)
    assert ((torch.bincount(cells, minlength=100) - expected) ** 2 / expected).sum() < 150


def test_neighbouring_seeds_and_swapped_counters_are_independent():
    counters = torch.arange(100_000)
    rows = [uniform(3, counters), uniform(4, counters), uniform(3, counters, counters[:1])]
    rows += [uniform(3, counters[:1], counters), uniform(3, counters + 1, counters[:1])]

    off_diagonal = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows))

    assert off_diagonal.abs().max() < 0.016  # 5 / sqrt(100,000)


def test_bits_do_not_repeat():
    bits = uniform_bits(0, torch.arange(500)[:, None], torch.arange(500))

    assert len(bits.unique()) == 500 * 500  # 2**53 values: a repeat has a chance of 3e-6
    assert bits.min() >= 0 and bits.max() < 2**53


def test_a_number_does_not_depend_on_its_company():
    together = uniform(1, torch.arange(7)[:, None], torch.arange(33))

    assert torch.equal(uniform(1, torch.tensor([[5]]), torch.arange(33))[0], together[5])


def test_generators_depend_on_their_address_alone():
    def draw(*address):
        return torch.rand(4, generator=generator(*address))

    assert torch.equal(draw(0, 1, "000123", "rgb"), draw(0, 1, "000123", "rgb"))
    addresses = [(0, 1, "a"), (1, 0, "a"), (0, "1", "a"), (0, 1, "b"), (0, 1), (0, "1, 'a'"), (-1, 1, "a")]
    assert len({draw(*address)[0].item() for address in addresses}) == len(addresses)


def test_generators_leave_the_global_one_alone():
    before = torch.get_rng_state()

    generator(1, "a")
    uniform(1, torch.arange(3))

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bits_are_equal_on_a_gpu():
    counters = torch.arange(100_000)

    assert torch.equal(
        uniform_bits(3, counters.cuda(), counters[:1].cuda()).cpu(), uniform_bits(3, counters, counters[:1])
    )
