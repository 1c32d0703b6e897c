"""Certificates: the published bounds, closed forms against draws, bounds that hold as often as they say, refusals."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmodal.certificates import bounds, simclr
from crossmodal.certificates.certificate import Certificate, certify, monte_carlo_upper
from crossmodal.certificates.gaussians import (
    Gaussian,
    ScaleGrid,
    kl_by_parameter,
    kl_divergence,
    log_chi_square,
    snap,
    spherical,
)
from crossmodal.certificates.small_kl import kl_inverse_down, kl_inverse_up, small_kl
from modalities.common.random import generator

# Nozawa et al. 2020, table 2: risk, KL, m, bound; and the bound's fourth digit and lambda, from the notebooks
PUBLISHED = [
    (0.172, 32756, 47500, 0.733, 0.7338, 122809),
    (0.170, 30894, 47500, 0.718, 0.7179, 119690),
    (0.323, 1333, 50000, 0.437, 0.4368, 24287),
    (0.199, 9769, 89775, 0.419, 0.4190, 95677),
    (0.195, 10018, 89775, 0.417, 0.4173, 97330),
    (0.267, 2054, 102600, 0.361, 0.3614, 45212),
]
GRID = list(itertools.product((0.0, 1e-4, 0.05, 0.3, 0.5, 0.9, 1.0), (0.0, 3.0, 1000.0, 1e5), (1, 40, 1000, 10**6)))


def gaussian(*address: str, least: float = 0.5, greatest: float = 1.3, shift: float = 0.5) -> Gaussian:
    """Seven weights in two parameters, float64."""
    numbers = generator("certificates", *address)
    shapes = {"conv.weight": (2, 2), "conv.bias": (3,)}
    mean = {name: shift * torch.randn(shape, generator=numbers).double() for name, shape in shapes.items()}
    std = {
        name: least + (greatest - least) * torch.rand(shape, generator=numbers).double()
        for name, shape in shapes.items()
    }
    return Gaussian(mean, std)


def draw(law: Gaussian, count: int) -> dict[str, Tensor]:
    numbers = generator("certificates", "draws", count)
    return {
        name: mean + law.std[name] * torch.randn(count, *mean.shape, generator=numbers, dtype=torch.float64)
        for name, mean in law.mean.items()
    }


def log_density(law: Gaussian, weights: dict[str, Tensor]) -> Tensor:
    """Of each draw, by torch's own normal."""
    parts = [
        torch.distributions.Normal(law.mean[name], law.std[name]).log_prob(weights[name]).flatten(1).sum(1)
        for name in law.mean
    ]
    return torch.stack(parts).sum(0)


PRIOR = spherical(gaussian("prior", shift=0.1).mean, 1.0)
ZEROS = spherical({"weight": torch.zeros(2, 2)}, 0.1)


# The published bounds


@pytest.mark.parametrize("place", [1, 400, 3000])
def test_the_six_published_bounds_come_of_their_risk_kl_and_m_wherever_the_prior_lies(place: int) -> None:
    """The place j of the learned prior is not published, and matters little: it costs 16 nats at 3000."""
    union = ScaleGrid().union(place).item()
    for risk, kl, examples, bound, _, _ in PUBLISHED:
        assert bounds.kl_inverse(risk, kl, examples, delta=0.05, union=union) == pytest.approx(bound, abs=1e-3)


def test_at_one_place_of_the_prior_all_published_digits_agree() -> None:
    """At j = 400, ln s_P = -3.15, the bounds to their fourth digit and the six lambdas to a part in 5,000."""
    union = ScaleGrid().union(400).item()
    for risk, kl, examples, _, fine, trade_off in PUBLISHED:
        bound, best = bounds.catoni_minimised(risk, kl, examples, delta=0.05, union=union)
        assert bound == pytest.approx(fine, abs=6e-5)
        assert best == pytest.approx(trade_off, rel=2e-4)


# The small kl and its inverses


def test_small_kl_is_the_divergence_of_two_coins() -> None:
    for q, p in itertools.product((0.0, 0.2, 0.5, 1.0), (0.1, 0.5, 0.7)):
        law, other = (torch.tensor([share, 1 - share], dtype=torch.float64) for share in (q, p))
        expected = torch.xlogy(law, law / other).sum().item()
        assert small_kl(q, p) == pytest.approx(expected, abs=1e-15)
    assert small_kl(0.0, 0.0) == small_kl(1.0, 1.0) == small_kl(0.3, 0.3) == 0
    assert small_kl(0.1, 0.0) == small_kl(0.9, 1.0) == math.inf


def test_inverses_give_back_what_they_were_given() -> None:
    for q, p in itertools.product((1e-9, 0.01, 0.3, 0.7), (1e-7, 0.0100001, 0.3001, 0.5, 0.95)):
        inverse = kl_inverse_up if p > q else kl_inverse_down
        assert inverse(q, small_kl(q, p)) == pytest.approx(p, abs=1e-12)
    assert kl_inverse_up(0.0, 0.7) == pytest.approx(1 - math.exp(-0.7), abs=1e-12)
    assert kl_inverse_down(1.0, 0.7) == pytest.approx(math.exp(-0.7), abs=1e-12)


def test_inverses_are_rounded_outwards_and_stay_in_range() -> None:
    for q, budget in itertools.product((0.0, 1e-12, 0.2, 0.5, 0.999, 1.0), (0.0, 1e-12, 1e-3, 1.0, 1e9, math.inf)):
        up, down = kl_inverse_up(q, budget), kl_inverse_down(q, budget)
        assert 0 <= down <= q <= up <= 1
        assert up == 1 or budget == 0 or small_kl(q, up) > budget
        assert down == 0 or budget == 0 or small_kl(q, down) > budget


def test_two_roots_of_m_bound_the_moment_for_few_examples_too() -> None:
    """E exp(m kl(R on examples, R)) = sum of C(m,k) (k/m)^k (1-k/m)^(m-k); Maurer proves it from m = 8 on."""
    for m in range(1, 60):
        moment = sum(math.comb(m, k) * (k / m) ** k * (1 - k / m) ** (m - k) for k in range(m + 1))
        assert moment <= 2 * math.sqrt(m)


# The bounds of each other


def test_catoni_minimised_over_lambda_is_the_inverse() -> None:
    for risk, kl, examples in GRID:
        bound, best = bounds.catoni_minimised(risk, kl, examples, delta=0.05)
        assert bound == pytest.approx(bounds.kl_inverse(risk, kl, examples, delta=0.05), abs=1e-4)
        assert bound == pytest.approx(bounds.catoni(risk, kl, examples, best, delta=0.05), abs=1e-12)
        for other in (best / 3, best * 3, 1.0, float(examples)):
            assert bound <= bounds.catoni(risk, kl, examples, other, delta=0.05) + 1e-9


def test_catoni_is_the_formula() -> None:
    risk, kl, m, trade_off, j = 0.2, 50.0, 1000, 700.0, 12
    inner = trade_off / m * risk + (kl + math.log(math.pi**2 * j**2 / (6 * 0.05)) + math.log(2 * math.sqrt(m))) / m
    expected = (1 - math.exp(-inner)) / (1 - math.exp(-trade_off / m))
    union = ScaleGrid().union(j).item()
    assert bounds.catoni(risk, kl, m, trade_off, delta=0.05, union=union) == pytest.approx(expected, rel=1e-12)


def test_mcallester_is_pinskers_and_never_below_the_inverse() -> None:
    expected = 0.2 + math.sqrt((30 + 1.5 + math.log(2 * math.sqrt(400) / 0.03)) / 800)
    assert bounds.mcallester(0.2, 30.0, 400, delta=0.03, union=1.5) == pytest.approx(expected, rel=1e-12)
    for risk, kl, examples in GRID:
        loose, tight = (bound(risk, kl, examples, delta=0.05) for bound in (bounds.mcallester, bounds.kl_inverse))
        assert loose >= tight - 1e-12


def test_chi_square_bound_is_the_formula_and_never_overflows() -> None:
    chi_square, m, j, dependence = 3.7, 5000, 20, 2
    expected = 0.1 + math.pi * j * math.sqrt((1 + 4 * dependence) / (24 * m * 0.05) * (chi_square + 1))
    found = bounds.chi_square(
        0.1, math.log(chi_square + 1), m, delta=0.05, union=ScaleGrid().union(j).item(), dependence=dependence
    )
    assert found == pytest.approx(expected, rel=1e-12)
    assert bounds.chi_square(0.1, 1e6, m, delta=0.05) == math.inf


def test_without_divergence_and_with_all_the_examples_bounds_are_the_risk() -> None:
    many = 10**12
    for bound in (bounds.kl_inverse, bounds.mcallester, bounds.chi_square):
        assert bound(0.3, 0.0, many, delta=0.05) == pytest.approx(0.3, abs=1e-5)
    assert bounds.catoni_minimised(0.3, 0.0, many, delta=0.05)[0] == pytest.approx(0.3, abs=1e-5)
    assert certify(0.3, 0.0, examples=many, draws=many).total == pytest.approx(0.3, abs=2e-5)
    assert simclr.batch_block(0.3, 0.0, many, 2, delta=0.05, greatest=7.0) == pytest.approx(0.3, abs=1e-4)
    assert simclr.mcdiarmid_mcallester(0.3, 0.0, many, delta=0.05, difference=7.0) == pytest.approx(0.3, abs=1e-4)


BOUNDS: list[tuple[Callable[..., float], dict[str, Any], dict[str, Any]]] = [  # with greater and smaller arguments
    (bounds.kl_inverse, {"risk": 0.3, "kl": 60.0, "union": 3.0}, {"examples": 900, "delta": 0.1}),
    (bounds.mcallester, {"risk": 0.3, "kl": 60.0, "union": 3.0}, {"examples": 900, "delta": 0.1}),
    (
        lambda **given: bounds.catoni(**given, trade_off=500.0),
        {"risk": 0.3, "kl": 60.0, "union": 3.0},
        {"examples": 900, "delta": 0.1},
    ),
    (
        lambda **given: bounds.catoni_minimised(**given)[0],
        {"risk": 0.3, "kl": 60.0, "union": 3.0},
        {"examples": 900, "delta": 0.1},
    ),
    (
        bounds.chi_square,
        {"risk": 0.3, "log_chi_square": 1.0, "union": 3.0, "dependence": 3},
        {"examples": 900, "delta": 0.1},
    ),
    (
        lambda **given: simclr.batch_block(**given, greatest=6.0),
        {"risk": 1.0, "kl": 6.0, "union": 3.0, "batch": 9},
        {"pairs": 900, "delta": 0.1},
    ),
    (
        simclr.mcdiarmid_mcallester,
        {"risk": 1.0, "kl": 6.0, "union": 3.0, "difference": 4.0},
        {"pairs": 900, "delta": 0.1},
    ),
    (monte_carlo_upper, {"risk": 0.3}, {"draws": 50, "delta": 0.1}),
    (
        lambda **given: certify(**given).total,
        {"risk": 0.3, "kl": 60.0, "union": 3.0},
        {"examples": 900, "delta": 0.1, "delta_monte_carlo": 0.01, "draws": 50},
    ),
    (
        lambda **given: certify(**given, draws=50).without_monte_carlo,
        {"risk": 0.3, "kl": 60.0, "union": 3.0},
        {"examples": 900, "delta": 0.1},
    ),
]


@pytest.mark.parametrize("case", range(len(BOUNDS)))
def test_bounds_are_monotone_in_every_argument(case: int) -> None:
    """But for the shares of delta: of `total` both matter, and there the share is small enough to be the tight one."""
    bound, rising, falling = BOUNDS[case]
    given = {**rising, **falling}
    before = bound(**given)
    for name, value in given.items():
        step = {"risk": value + 0.1, "batch": 10, "dependence": 4, "delta": 0.2}.get(name, type(value)(value * 2))
        after = bound(**{**given, name: step})
        if name in rising:
            assert after > before, name
        else:
            assert after < before, name


# Gaussians


@pytest.mark.parametrize("least, greatest", [(0.5, 0.9), (0.75, 1.1)])
def test_divergences_are_their_means_over_draws(least: float, greatest: float) -> None:
    posterior = gaussian("posterior", least=least, greatest=greatest, shift=0.3)
    weights = draw(posterior, 200_000)
    log_ratio = log_density(posterior, weights) - log_density(PRIOR, weights)
    assert kl_divergence(posterior, PRIOR).item() == pytest.approx(log_ratio.mean().item(), rel=0.01)
    found = log_chi_square(posterior, PRIOR).exp().item() - 1
    assert found == pytest.approx(log_ratio.exp().mean().item() - 1, rel=0.01)
    if least > math.sqrt(0.5):  # the other direction exists, and is another number
        assert abs(log_chi_square(PRIOR, posterior).exp().item() - 1 - found) > 0.05 * found


def test_divergences_are_zero_where_posterior_is_prior_and_only_there() -> None:
    law = gaussian("law")
    for divergence in (kl_divergence, log_chi_square):
        assert divergence(law, law).item() == 0
        for part in ("mean", "std"):
            moved = {name: getattr(law, part)[name].clone() for name in law.mean}
            moved["conv.bias"][1] += 0.01
            assert divergence(Gaussian(**{"mean": law.mean, "std": law.std, part: moved}), law).item() > 1e-6


def test_divergences_are_torchs_and_sums_over_parameters() -> None:
    posterior, prior = gaussian("posterior"), gaussian("diagonal", least=1.0, greatest=2.0)
    expected = {
        name: torch.distributions.kl_divergence(
            torch.distributions.Normal(posterior.mean[name], posterior.std[name]),
            torch.distributions.Normal(prior.mean[name], prior.std[name]),
        ).sum()
        for name in posterior.mean
    }
    torch.testing.assert_close(kl_by_parameter(posterior, prior), expected)
    torch.testing.assert_close(kl_divergence(posterior, prior), sum(expected.values()))
    alone = [
        log_chi_square(*(Gaussian({name: law.mean[name]}, {name: law.std[name]}) for law in (posterior, prior)))
        for name in posterior.mean
    ]
    torch.testing.assert_close(log_chi_square(posterior, prior), torch.stack(alone).sum())


def test_divergences_of_many_weights_do_not_overflow_and_float32_is_summed_in_float64() -> None:
    """A hundred thousand float32 weights, to one part in 10^12."""
    mean, std, scale = torch.tensor(0.1), torch.tensor(0.05), torch.tensor(0.1)
    prior = Gaussian({"weight": torch.zeros(100_000)}, {"weight": scale})
    posterior = Gaussian({"weight": mean.expand(100_000)}, {"weight": std})
    shift, ratio = (mean.item() / scale.item()) ** 2, (std.item() / scale.item()) ** 2
    each = shift / (2 - ratio) - math.log(ratio * (2 - ratio)) / 2
    assert log_chi_square(posterior, prior).item() == pytest.approx(1e5 * each, rel=1e-12)
    each = (shift + ratio - 1 - math.log(ratio)) / 2
    assert kl_divergence(posterior, prior).item() == pytest.approx(1e5 * each, rel=1e-12)


def test_chi_square_bounds_the_change_of_measure_in_this_direction_alone() -> None:
    """E_Q[D] <= sqrt( E_P[D^2] (chi^2 + 1) ), the step that the bound needs, with D = q / p attaining it."""
    posterior, prior = spherical({"w": torch.tensor(0.4)}, 1.25), spherical({"w": torch.zeros(())}, 1.0)
    line = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    q, p = (log_density(law, {"w": line[:, None]}).exp() for law in (posterior, prior))
    gap = torch.where(p > 1e-250, q / p, 0)
    left = torch.trapezoid(q * gap, line)
    right = (torch.trapezoid(p * gap**2, line) * log_chi_square(posterior, prior).exp()).sqrt()
    torch.testing.assert_close(left, right, rtol=1e-6, atol=0)
    torch.testing.assert_close(left, log_chi_square(posterior, prior).exp(), rtol=1e-6, atol=0)


def test_chi_square_names_the_first_weight_outside_its_condition_on_variances() -> None:
    std = torch.full((2, 2), 0.1)
    std[1, 0], std[1, 1] = 0.2, 0.3
    with pytest.raises(ValueError, match=r"below 2 times the prior's for chi-square, but at weight\[1, 0\] it is 4"):
        log_chi_square(Gaussian(ZEROS.mean, {"weight": std}), ZEROS)
    std[1] = 0.1 * math.sqrt(2.001)
    with pytest.raises(ValueError, match=r"weight\[1, 0\] it is 2.001 times"):
        log_chi_square(Gaussian(ZEROS.mean, {"weight": std}), ZEROS)
    std[1] = math.nan
    with pytest.raises(ValueError, match=r"weight\[1, 0\] it is nan times"):
        log_chi_square(Gaussian(ZEROS.mean, {"weight": std}), ZEROS)
    std[1] = 0.1 * math.sqrt(1.999)
    assert log_chi_square(Gaussian(ZEROS.mean, {"weight": std}), ZEROS).isfinite()


# The grid of scales and the objective


def test_places_and_scales_are_each_others_inverse_and_their_weights_sum_to_one() -> None:
    grid = ScaleGrid()
    assert grid.index(math.exp(-4)).item() == pytest.approx(100 * (math.log(0.1) + 8))
    assert grid.std(569.7).item() == pytest.approx(math.sqrt(0.1 * math.exp(-5.697)))
    assert grid.index(grid.std(400)).item() == pytest.approx(400)
    places = torch.arange(1, 2_000_000, dtype=torch.float64)
    assert (-grid.union(places)).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_neighbours_enclose_a_scale_and_begin_with_the_first_place() -> None:
    grid = ScaleGrid()
    assert grid.neighbours(math.exp(-4)) == [569, 570]
    assert grid.neighbours(grid.std(0.4).item()) == [1]
    with pytest.raises(ValueError, match=r"std must be below 0.316228, the grid's limit, got 0.5"):
        grid.neighbours(0.5)


@pytest.mark.parametrize("divergence", [kl_divergence, log_chi_square])
def test_of_two_neighbours_the_cheaper_is_kept(divergence: Callable[[Gaussian, Gaussian], Tensor]) -> None:
    """A coarse grid, on which rounding would choose otherwise: narrow posteriors like the narrower of the scales."""
    grid, chosen = ScaleGrid(greatest_variance=1.0, steps=2), set()
    for std in (0.3, 0.4, 0.5):
        posterior = spherical({"weight": torch.zeros(30)}, std)
        found = snap(posterior, posterior.mean, 0.42, grid=grid, divergence=divergence)
        costs = {
            place: divergence(posterior, spherical(posterior.mean, grid.std(place))).item() + grid.union(place).item()
            for place in (3, 4)
        }
        assert grid.neighbours(0.42) == [3, 4]
        assert found.divergence + found.union == pytest.approx(min(costs.values()))
        assert costs[found.index] == min(costs.values())
        assert found.std == grid.std(found.index).item()
        chosen.add(found.index)
    assert chosen == {3, 4}


def test_objective_is_the_formula_and_its_gradients_reach_everything() -> None:
    posterior, grid = gaussian("posterior"), ScaleGrid()
    log_std = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    mean = {name: tensor.clone().requires_grad_() for name, tensor in posterior.mean.items()}
    std = {name: tensor.clone().requires_grad_() for name, tensor in posterior.std.items()}

    def objective(loss: Tensor, log_std: Tensor, *parameters: Tensor) -> Tensor:
        law = Gaussian(dict(zip(mean, parameters[:2], strict=True)), dict(zip(std, parameters[2:], strict=True)))
        kl = kl_divergence(law, spherical(PRIOR.mean, log_std.exp()))
        union = grid.union(grid.index(log_std.exp()))
        return bounds.catoni_objective(loss, kl, trade_off=30.0, delta=0.05, union=union)

    loss = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    kl = kl_divergence(posterior, spherical(PRIOR.mean, math.exp(-2))).item()
    union = 2 * math.log(100) + 2 * math.log(math.log(0.1) + 4) + math.log(math.pi**2 / (6 * 0.05))
    given = (loss, log_std, *mean.values(), *std.values())
    assert objective(*given).item() == pytest.approx(0.7 + (kl + union) / 30, rel=1e-12)
    assert torch.autograd.gradcheck(objective, given)


# Certificates


def test_monte_carlo_bounds_fail_no_more_often_than_they_say() -> None:
    """Coins thrown 20 times, every outcome by its chance; the mean alone is below the risk in a third or more."""
    draws, delta = 20, 0.05
    for risk in (0.02, 0.1, 0.3, 0.5, 0.9):
        failed = bare = 0.0
        for heads in range(draws + 1):
            chance = math.comb(draws, heads) * risk**heads * (1 - risk) ** (draws - heads)
            failed += chance * (monte_carlo_upper(heads / draws, draws, delta=delta) < risk)
            bare += chance * (heads / draws < risk)
        assert failed <= delta / 2
        assert bare > 0.3


def test_monte_carlo_bound_is_the_inverse_of_its_share_of_delta() -> None:
    assert small_kl(0.2, monte_carlo_upper(0.2, 300, delta=0.01)) == pytest.approx(math.log(200) / 300, rel=1e-9)


def test_a_certificate_says_what_it_is_made_of() -> None:
    given = certify(0.2, 500.0, examples=20_000, draws=400, union=9.0)
    upper = kl_inverse_up(0.2, math.log(2 / 0.01) / 400)
    assert given.monte_carlo_slack == pytest.approx(upper - 0.2)
    assert given.complexity == pytest.approx(509 + math.log(2 * math.sqrt(20_000) / 0.04))
    assert given.total == pytest.approx(bounds.kl_inverse(upper, 500.0, 20_000, delta=0.04, union=9.0))
    assert given.without_monte_carlo == pytest.approx(bounds.kl_inverse(0.2, 500.0, 20_000, delta=0.05, union=9.0))
    assert (given.train_risk, given.kl, given.union, given.examples, given.draws) == (0.2, 500.0, 9.0, 20_000, 400)
    assert (given.delta, given.delta_monte_carlo, given.greatest) == (0.05, 0.01, 1.0)


@pytest.mark.parametrize("risk", [0.0, 0.2, 1.0])
def test_shares_add_up_to_the_bound(risk: float) -> None:
    given = certify(risk, 500.0, examples=20_000, draws=400, union=9.0)
    shares = given.shares()
    assert list(shares) == ["train risk", "monte carlo", "confidence", "union", "kl"]
    assert sum(shares.values()) == pytest.approx(given.total)
    assert min(shares.values()) >= 0
    assert risk == 1 or 0 < shares["confidence"] < shares["kl"]


def test_a_loss_of_another_range_scales_its_certificate() -> None:
    unit = certify(0.25, 500.0, examples=20_000, draws=400)
    wide = certify(2.0, 500.0, examples=20_000, draws=400, greatest=8.0)
    assert wide.total == pytest.approx(8 * unit.total)
    assert wide.without_monte_carlo == pytest.approx(8 * unit.without_monte_carlo)
    assert wide.shares() == pytest.approx({part: 8 * share for part, share in unit.shares().items()})


def true_risk(threshold: Tensor) -> Tensor:
    """Of 1[x > threshold], x uniform on [-1, 1], where the label is 1[x > 0.2] but for a tenth that is turned over."""
    return 0.1 + 0.4 * (threshold.clamp(-1, 1) - 0.2).abs()


def threshold_risks(thresholds: Tensor, examples: int, numbers: torch.Generator) -> Tensor:
    """Each threshold's share of errors on one sample of examples."""
    x = 2 * torch.rand(examples, generator=numbers, dtype=torch.float64) - 1
    label = (x > 0.2) ^ (torch.rand(examples, generator=numbers) < 0.1)
    return ((x > thresholds[:, None]) != label).double().mean(1)


def test_certificates_hold_as_often_as_they_say_for_a_gaussian_that_saw_its_examples() -> None:
    """One weight, the threshold: the posterior stands where the examples' risk is least. 200 samples of 60."""
    line, wrong, tempted = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64), 0, 0
    places = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    weight = torch.exp(-places.square() / 2) / torch.exp(-places.square() / 2).sum()
    for repetition in range(200):
        numbers = generator("certificates", "threshold", repetition)
        noise = torch.randn(100, generator=numbers, dtype=torch.float64)
        state = numbers.get_state()
        best = line[threshold_risks(line, 60, numbers).argmin()]
        posterior, prior = spherical({"w": best}, 0.05), spherical({"w": torch.zeros(())}, 0.5)
        numbers.set_state(state)  # the same sample again, for the weights that are drawn
        risk = threshold_risks(best + 0.05 * noise, 60, numbers).mean().item()
        given = certify(risk, kl_divergence(posterior, prior).item(), examples=60, draws=100)
        truth = (weight * true_risk(best + 0.05 * places)).sum().item()
        wrong += given.total < truth
        tempted += risk < truth
        assert risk < given.without_monte_carlo < given.total < 0.75
    assert wrong <= 0.05 * 200
    assert tempted > 0.5 * 200  # without a bound it would be wrong as often


def test_certificates_hold_as_often_as_they_say_for_gibbs_classifiers_and_few_draws() -> None:
    """41 thresholds, a posterior that weighs exp(-m R), 200 samples of 80, 15 drawn weights."""
    thresholds = torch.linspace(-1, 1, 41, dtype=torch.float64)
    wrong = wrong_without = 0
    for repetition in range(200):
        numbers = generator("certificates", "gibbs", repetition)
        risks = threshold_risks(thresholds, 80, numbers)
        posterior = torch.softmax(-80 * risks, 0)
        kl = (posterior * (posterior * 41).log()).sum().item()
        drawn = torch.multinomial(posterior, 15, replacement=True, generator=numbers)
        given = certify(risks[drawn].mean().item(), kl, examples=80, draws=15)
        truth = (posterior * true_risk(thresholds)).sum().item()
        wrong += given.total < truth
        wrong_without += given.train_risk < truth
        assert given.without_monte_carlo < given.total
    assert wrong <= 0.05 * 200 < wrong_without


# The SimCLR loss


def simclr_losses(cosines: Tensor, temperature: float) -> Tensor:
    """Of each pair; row i: one look at pair i with the other look at every pair."""
    logits = cosines / temperature
    return logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)


@pytest.mark.parametrize("temperature, batch", [(0.1, 8), (0.5, 2), (1.0, 250), (0.5, 1)])
def test_no_simclr_loss_leaves_its_range(temperature: float, batch: int) -> None:
    worst = torch.ones(batch, batch).fill_diagonal_(-1)
    found = simclr_losses(worst, temperature)
    greatest = simclr.simclr_range(temperature, batch)
    assert found.max().item() <= greatest + 1e-5
    assert batch == 1 or found.max().item() > greatest - math.log(batch / (batch - 1)) - 1e-5
    assert simclr_losses(-worst, temperature).min().item() >= -1e-6


@pytest.mark.parametrize("temperature, batch", [(0.1, 8), (0.5, 2), (1.0, 250)])
def test_one_pair_changes_a_batchs_losses_by_no_more_than_the_difference(temperature: float, batch: int) -> None:
    difference = simclr.simclr_difference(temperature, batch)
    near = -torch.ones(batch, batch, dtype=torch.float64)
    far = near.clone()
    far[:, 0] = 1  # another pair 0, whose second look is near every first look
    change = simclr_losses(far, temperature)[1:].sum() - simclr_losses(near, temperature)[1:].sum()
    assert change.item() == pytest.approx(difference - 4 / temperature)  # the others' part is attained
    unit = torch.nn.functional.normalize(torch.randn(50, 2, batch, 2, generator=generator("pairs")).double(), dim=-1)
    other = unit.clone()
    other[:, :, 0] = -other[:, :, 0].flip(0)
    sums = [simclr_losses(crops[:, 0] @ crops[:, 1].mT, temperature).sum(1) for crops in (unit, other)]
    assert (sums[0] - sums[1]).abs().max().item() <= difference


def test_the_difference_at_small_temperatures_does_not_overflow() -> None:
    assert simclr.simclr_difference(1e-3, 4) == pytest.approx(4000 + 3 * (2000 - math.log(4)))
    expected = 4 / 0.7 + 4 * math.log((4 + math.exp(2 / 0.7)) / 5)
    assert simclr.simclr_difference(0.7, 5) == pytest.approx(expected, rel=1e-12)


def test_simclr_bounds_are_the_formulas() -> None:
    risk, kl, n, m, delta = 2.0, 30.0, 5000, 50, 0.04
    block = 6 * kl_inverse_up(risk / 6, m / n * (kl + math.log(2 * math.sqrt(n) / (delta * math.sqrt(m)))))
    assert simclr.batch_block(risk, kl, n + m - 1, m, delta=delta, greatest=6.0) == pytest.approx(block, rel=1e-12)
    root = 9 * (risk / 9 + math.sqrt((kl + math.log(2 * n / delta)) / (2 * (n - 1))))
    assert simclr.mcdiarmid_mcallester(risk, kl, n, delta=delta, difference=9.0) == pytest.approx(root, rel=1e-12)


def test_which_simclr_bound_is_tighter_depends_on_the_temperature() -> None:
    def both(temperature: float) -> tuple[float, float]:
        greatest, difference = simclr.simclr_range(temperature, 250), simclr.simclr_difference(temperature, 250)
        return (
            simclr.batch_block(4.0, 100.0, 50_000, 250, delta=0.04, greatest=greatest),
            simclr.mcdiarmid_mcallester(4.0, 100.0, 50_000, delta=0.04, difference=difference),
        )

    block, root = both(1.0)
    assert root < block < simclr.simclr_range(1.0, 250)
    block, root = both(0.2)
    assert block < root


def test_simclr_bounds_hold_for_encoders_that_saw_their_pairs() -> None:
    """Encoders turn 20 features onto a circle; the posterior weighs what does well on 64 pairs in batches of 8."""
    numbers = generator("certificates", "simclr")
    encoders = torch.randn(40, 20, 2, generator=numbers, dtype=torch.float64)
    signal = torch.linspace(2, 0, 20, dtype=torch.float64)

    def risks(pairs: int, numbers: torch.Generator) -> Tensor:
        first = signal * torch.randn(pairs // 8, 8, 20, generator=numbers, dtype=torch.float64)
        crops = [first + 0.3 * torch.randn(first.shape, generator=numbers, dtype=torch.float64) for _ in range(2)]
        branches = [torch.nn.functional.normalize(crop @ encoders[:, None], dim=-1) for crop in crops]
        return simclr_losses(branches[0] @ branches[1].mT, 1.0).mean((1, 2))

    truth, wrong, tempted = risks(8000, numbers), torch.zeros(2), 0
    greatest, difference = simclr.simclr_range(1.0, 8), simclr.simclr_difference(1.0, 8)
    for _ in range(40):
        found = risks(64, numbers)
        posterior = torch.softmax(-100 * found, 0)
        kl, risk = (posterior * (posterior * 40).log()).sum().item(), (posterior * found).sum().item()
        certain = (posterior * truth).sum().item()
        wrong[0] += simclr.batch_block(risk, kl, 64, 8, delta=0.05, greatest=greatest) < certain
        wrong[1] += simclr.mcdiarmid_mcallester(risk, kl, 64, delta=0.05, difference=difference) < certain
        tempted += risk < certain
    assert wrong.max() <= 0.05 * 40
    assert tempted > 0.5 * 40


# Refusals


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"delta": 0.0}, "delta must be above 0 and below 1, got 0"),
        ({"delta": 1.0}, "delta must be above 0 and below 1, got 1"),
        ({"delta": math.nan}, "delta must be above 0 and below 1, got nan"),
        ({"delta_monte_carlo": 0.05}, "delta_monte_carlo must be above 0 and below delta, 0.05, got 0.05"),
        ({"delta_monte_carlo": 0.0}, "delta_monte_carlo must be above 0 and below delta, 0.05, got 0"),
        ({"examples": 0}, "examples must be 1 or more, got 0"),
        ({"draws": 0}, "draws must be 1 or more, got 0"),
        ({"risk": -0.1}, "risk must be from 0 to 1, got -0.1"),
        ({"risk": 1.1}, "risk must be from 0 to 1, got 1.1"),
        ({"risk": math.nan}, "risk must be from 0 to 1, got nan"),
        ({"risk": 2.5, "greatest": 2.0}, "risk must be from 0 to 2, got 2.5"),
        ({"greatest": 0.0}, "greatest must be above 0 and finite, got 0"),
        ({"kl": -1.0}, "kl must be 0 or more, got -1"),
        ({"kl": math.nan}, "kl must be 0 or more, got nan"),
        ({"union": -1.0}, "union must be 0 or more, got -1"),
    ],
)
def test_certificates_refuse_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        certify(**{"risk": 0.1, "kl": 5.0, "examples": 100, "draws": 10, **wrong})


def test_a_posterior_infinitely_far_from_its_prior_has_a_certificate_that_says_nothing() -> None:
    narrow = Gaussian(ZEROS.mean, {"weight": torch.zeros(())})
    given = certify(0.1, kl_divergence(narrow, ZEROS).item(), examples=100, draws=10)
    assert isinstance(given, Certificate)
    assert given.total == 1


REFUSED: list[tuple[Callable[..., object], dict[str, Any], list[tuple[str, Any, str]]]] = [
    (small_kl, {"q": 0.1, "p": 0.2}, [("q", 1.1, "q must be from 0 to 1"), ("p", math.nan, "p must be from 0 to 1")]),
    *(
        (
            inverse,
            {"q": 0.1, "budget": 0.2},
            [("q", -0.1, "q must be"), ("budget", math.nan, "budget must be 0 or more")],
        )
        for inverse in (kl_inverse_up, kl_inverse_down)
    ),
    *(
        (
            bound,
            {"risk": 0.1, "kl": 5.0, "examples": 100, "delta": 0.05},
            [
                ("risk", 1.1, "risk must be from 0 to 1, got 1.1"),
                ("kl", -1.0, "kl must be 0 or more"),
                ("examples", 0, "examples must be 1 or more, got 0"),
                ("delta", 1.5, "delta must be above 0 and below 1, got 1.5"),
                ("union", math.nan, "union must be 0 or more, got nan"),
            ],
        )
        for bound in (bounds.kl_inverse, bounds.mcallester, bounds.catoni_minimised)
    ),
    (
        bounds.catoni,
        {"risk": 0.1, "kl": 5.0, "examples": 100, "delta": 0.05, "trade_off": 9.0},
        [("trade_off", 0.0, "trade_off must be above 0 and finite, got 0"), ("risk", 2.0, "risk must be from 0")],
    ),
    (
        bounds.catoni_objective,
        {"loss": torch.tensor(1.0), "kl": torch.tensor(1.0), "trade_off": 9.0, "delta": 0.05},
        [("trade_off", -1.0, "trade_off must be above 0"), ("delta", 0.0, "delta must be above 0 and below 1")],
    ),
    (
        bounds.chi_square,
        {"risk": 0.1, "log_chi_square": 5.0, "examples": 100, "delta": 0.05},
        [
            ("risk", -1.0, "risk must be from 0 to 1"),
            ("log_chi_square", -1.0, "log_chi_square must be 0 or more"),
            ("union", -1.0, "union must be 0 or more"),
            ("examples", 0, "examples must be 1 or more"),
            ("dependence", -1, "dependence must be 0 or more, got -1"),
            ("delta", math.nan, "delta must be above 0"),
        ],
    ),
    (
        simclr.simclr_range,
        {"temperature": 0.1, "candidates": 3},
        [("temperature", 0.0, "temperature must be above 0"), ("candidates", 0, "candidates must be 1 or more")],
    ),
    (
        simclr.simclr_difference,
        {"temperature": 0.1, "batch": 3},
        [("temperature", -1.0, "temperature must be above 0"), ("batch", 0, "batch must be 1 or more")],
    ),
    (
        simclr.batch_block,
        {"risk": 0.1, "kl": 5.0, "pairs": 100, "batch": 10, "delta": 0.05, "greatest": 3.0},
        [
            ("risk", 3.1, "risk must be from 0 to 3, got 3.1"),
            ("greatest", math.inf, "greatest must be above 0 and finite"),
            ("batch", 0, "batch must be 1 or more"),
            ("pairs", 9, "pairs must be 10 or more, got 9"),
            ("kl", -1.0, "kl must be 0 or more"),
            ("delta", 2.0, "delta must be above 0 and below 1"),
        ],
    ),
    (
        simclr.mcdiarmid_mcallester,
        {"risk": 0.1, "kl": 5.0, "pairs": 100, "delta": 0.05, "difference": 3.0},
        [
            ("risk", math.inf, "risk must be 0 or more and finite, got inf"),
            ("risk", math.nan, "risk must be 0 or more and finite, got nan"),
            ("kl", -1.0, "kl must be 0 or more"),
            ("union", -1.0, "union must be 0 or more"),
            ("pairs", 1, "pairs must be 2 or more, got 1"),
            ("delta", 0.0, "delta must be above 0"),
            ("difference", 0.0, "difference must be above 0"),
        ],
    ),
    (
        monte_carlo_upper,
        {"risk": 0.1, "draws": 10, "delta": 0.01},
        [
            ("risk", 1.1, "risk must be"),
            ("draws", 0, "draws must be 1 or more"),
            ("delta", 1.0, "delta must be above 0"),
        ],
    ),
    (
        ScaleGrid,
        {},
        [("greatest_variance", 0.0, "greatest_variance must be above 0"), ("steps", 0, "steps must be 1 or more")],
    ),
    (
        ScaleGrid().neighbours,
        {"std": 0.1},
        [("std", 0.0, "std must be above 0"), ("std", 0.4, "std must be below 0.316")],
    ),
]
CASES = [(call, given | {name: value}, message) for call, given, wrong in REFUSED for name, value, message in wrong]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_function_refuses_by_name(case: int) -> None:
    call, given, message = CASES[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        call(**given)


def test_gaussians_over_different_parameters_are_refused() -> None:
    mean, one = {"a": torch.zeros(2), "b": torch.zeros(3)}, torch.ones(())
    with pytest.raises(ValueError, match="at least one parameter"):
        Gaussian({}, {})
    with pytest.raises(ValueError, match="parameter b is in only one of mean and std"):
        Gaussian(mean, {"a": one})
    with pytest.raises(ValueError, match="parameter c is in only one of mean and std"):
        Gaussian(mean, {"a": one, "b": one, "c": one})
    for shape in ((3,), (4, 2)):
        with pytest.raises(ValueError, match=r"std of a has shape .* which does not broadcast to its mean's"):
            Gaussian(mean, {"a": torch.ones(shape), "b": one})
    for divergence in (kl_divergence, log_chi_square):
        with pytest.raises(ValueError, match="parameter b is in only one of posterior and prior"):
            divergence(spherical(mean, 1.0), spherical({"a": torch.zeros(2)}, 1.0))
        with pytest.raises(ValueError, match=r"b has shape \(3,\) in the posterior and \(4,\) in the prior"):
            divergence(spherical(mean, 1.0), spherical({"a": torch.zeros(2), "b": torch.zeros(4)}, 1.0))
