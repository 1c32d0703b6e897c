"""Gaussians over a network's parameters, their divergences, and the grid of a prior's scales.

Tensors are named by parameter. Everything is differentiable float64; only `log_chi_square` waits for a GPU.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.certificates.checks import check_count, check_positive


@dataclass(frozen=True)
class Gaussian:
    """Independent normal weights: `mean` and `std` of every parameter, where a std may broadcast to its mean.

    Raises:
        ValueError: there are no parameters, their names differ, or a std does not broadcast to its mean.
    """

    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not self.mean:
            raise ValueError("a Gaussian needs at least one parameter")
        _check_names(self.mean, self.std, "mean and std")
        for name, mean in self.mean.items():
            if _broadcast(self.std[name].shape, mean.shape) != mean.shape:
                raise ValueError(f"std of {name} has shape {tuple(self.std[name].shape)}, which does not broadcast to "
                                 f"its mean's {tuple(mean.shape)}")  # fmt: skip


def spherical(mean: Mapping[str, Tensor], std: Tensor | float) -> Gaussian:
    """The Gaussian N(w0, s_P^2 I): one std, a number or a scalar tensor, for all parameters."""
    one = torch.as_tensor(std, dtype=torch.float64)
    return Gaussian(mean, {name: one.to(tensor.device) for name, tensor in mean.items()})


def kl_by_parameter(posterior: Gaussian, prior: Gaussian) -> dict[str, Tensor]:
    """KL(posterior || prior) in nats, by parameter name, summed over each parameter's entries.

    1/2 sum [ (w - w0)^2 / s_P^2 + s^2 / s_P^2 - 1 - ln(s^2 / s_P^2) ]; infinite where a std is 0.

    Raises:
        ValueError: posterior and prior are not over the same parameters.
    """
    return {
        name: (shift.square() + ratio.square() - 1 - 2 * ratio.log()).sum() / 2
        for name, (shift, ratio) in _standardise(posterior, prior).items()
    }


def kl_divergence(posterior: Gaussian, prior: Gaussian) -> Float[Tensor, ""]:
    """KL(posterior || prior) in nats, float64; see `kl_by_parameter`."""
    return _total(kl_by_parameter(posterior, prior))


def log_chi_square(posterior: Gaussian, prior: Gaussian) -> Float[Tensor, ""]:
    """ln( chi^2(posterior || prior) + 1 ) in nats, the log of the integral of q^2 / p, float64.

    With r = s^2 / s_P^2 it is the sum of (w - w0)^2 / (s_P^2 (2 - r)) - 1/2 ln( r (2 - r) ). It exists if every r < 2,
    that is s^2 < 2 s_P^2: otherwise q^2 / p does not vanish far away. `bounds.chi_square` derives this direction of the
    divergence. The code published with Nozawa et al. 2020 integrates p^2 / q, which exists if s^2 > s_P^2 / 2; no bound
    on the posterior's risk follows from that.

    Raises:
        ValueError: posterior and prior are not over the same parameters, or a variance violates the condition or is
            NaN; the message names the first.
    """
    parts = {}
    for name, (shift, ratio) in _standardise(posterior, prior).items():
        variance = ratio.square()
        _check_variance(name, variance)
        parts[name] = (shift.square() / (2 - variance) - (-(1 - variance).square()).log1p() / 2).sum()
    return _total(parts)


@dataclass(frozen=True)
class ScaleGrid:
    """The grid of prior scales that one union bound covers: s_P^2 = c exp(-j / b) for j = 1, 2, ...

    Place j weighs 6 / (pi j)^2, which sums to 1. A learned scale must be moved to the grid (`snap`) before anything is
    certified.

    Args:
        greatest_variance: c, the limit that every s_P^2 stays below.
        steps: b, the number of grid values while s_P^2 falls by a factor of e.

    Raises:
        ValueError: either is not above 0.

    Source: Nozawa, Germain, Guedj 2020, https://arxiv.org/abs/1910.04464, whose c is 0.1 and b 100; after Langford and
    Caruana 2001.
    """

    greatest_variance: float = 0.1
    steps: int = 100

    def __post_init__(self) -> None:
        check_positive(self.greatest_variance, "greatest_variance")
        check_count(self.steps, "steps")

    def std(self, index: Tensor | float) -> Tensor:
        """The scale s_P at a place j, on the grid or between; its square is below c for every j above 0."""
        place = torch.as_tensor(index, dtype=torch.float64)
        return math.sqrt(self.greatest_variance) * torch.exp(-place / (2 * self.steps))

    def index(self, std: Tensor | float) -> Tensor:
        """The place j = b (ln c - 2 ln s_P) of a scale, a real number; 0 or less if s_P^2 reaches c."""
        return self.steps * (math.log(self.greatest_variance) - 2 * torch.as_tensor(std, dtype=torch.float64).log())

    def union(self, index: Tensor | float) -> Tensor:
        """The cost of the union over the grid at j, in nats: ln(pi^2 j^2 / 6); differentiable."""
        return 2 * torch.as_tensor(index, dtype=torch.float64).log() + math.log(math.pi**2 / 6)

    def neighbours(self, std: float) -> list[int]:
        """The one or two places on the grid next to a scale.

        Raises:
            ValueError: `std` is not above 0, or its square reaches the grid's greatest variance.
        """
        check_positive(std, "std")
        place = self.index(std).item()
        if place <= 0:
            raise ValueError(f"std must be below {math.sqrt(self.greatest_variance):g}, the grid's limit, got {std}")
        return sorted({max(1, math.floor(place)), math.ceil(place)})


@dataclass(frozen=True)
class Snapped:
    """A prior on the grid: its place and scale, and in nats the divergence from it and the cost of the union."""

    index: int
    std: float
    divergence: float
    union: float


def snap(
    posterior: Gaussian,
    prior_mean: Mapping[str, Tensor],
    std: float,
    *,
    grid: ScaleGrid | None = None,
    divergence: Callable[[Gaussian, Gaussian], Tensor] = kl_divergence,
) -> Snapped:
    """Moves a learned prior scale to the neighbour on the grid with the smaller sum of divergence and union.

    With `log_chi_square` for `divergence`, `bounds.chi_square` also grows with that sum.

    Raises:
        ValueError: as `ScaleGrid.neighbours` and the divergence.
    """
    grid = ScaleGrid() if grid is None else grid
    candidates = []
    for index in grid.neighbours(std):
        scale = grid.std(index).item()
        nats = divergence(posterior, spherical(prior_mean, scale)).item()
        candidates.append(Snapped(index, scale, nats, grid.union(index).item()))
    return min(candidates, key=lambda place: place.divergence + place.union)


def _standardise(posterior: Gaussian, prior: Gaussian) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean's shift in the prior's stds and the ratio of stds, by parameter, both in the mean's shape."""
    _check_names(posterior.mean, prior.mean, "posterior and prior")
    standardised = {}
    for name, mean in posterior.mean.items():
        if mean.shape != prior.mean[name].shape:
            raise ValueError(f"{name} has shape {tuple(mean.shape)} in the posterior and "
                             f"{tuple(prior.mean[name].shape)} in the prior")  # fmt: skip
        scale = prior.std[name].double()
        ratio = (posterior.std[name].double() / scale).expand(mean.shape)
        standardised[name] = ((mean.double() - prior.mean[name].double()) / scale, ratio)
    return standardised


def _total(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def _check_names(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs:
            raise ValueError(f"parameter {name} is in only one of {what}")


def _check_variance(name: str, variance: Tensor) -> None:
    outside = ~(variance < 2)  # a NaN is outside, too
    if outside.any():
        place = tuple(outside.nonzero()[0].tolist())
        raise ValueError(f"the posterior's variance must be below 2 times the prior's for chi-square, but at "
                         f"{name}{list(place) if place else ''} it is {variance[place].item():g} times")  # fmt: skip


def _broadcast(shape: torch.Size, target: torch.Size) -> torch.Size | None:
    try:
        return torch.broadcast_shapes(shape, target)
    except RuntimeError:
        return None
