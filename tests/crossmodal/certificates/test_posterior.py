"""Encoders with drawn weights: their mean, their draws, gradients, divergence, and what they refuse."""

import math

import pytest
import torch
from torch import nn

from crossmodal import ENCODERS
from crossmodal.certificates.gaussians import kl_divergence
from crossmodal.certificates.posterior import GaussianPosterior, without_running_statistics
from crossmodal.encoders import Encoder

BATCH = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(name: str = "convnet", **options: object) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS.get(name)((3, 32, 32), 0, **({"width": 8, "norm": "group"} if name == "convnet" else {}), **options)


def test_the_means_are_the_encoder_and_the_posterior_begins_at_the_prior() -> None:
    encoder = build()
    network = GaussianPosterior(encoder)
    assert torch.equal(network(BATCH, network.mean()).embedding, encoder(BATCH).embedding)
    assert kl_divergence(network.posterior, network.prior).item() == pytest.approx(0, abs=1e-6)
    assert network.spec == encoder.spec


def test_draws_have_the_posteriors_mean_and_deviation() -> None:
    network = GaussianPosterior(build(), std=0.3)
    with torch.no_grad():
        network.means[0].add_(2)
        network.log_stds[0].fill_(math.log(0.5))
    draws = torch.stack([network.draw()[network.names[0]] for _ in range(4000)]).detach()
    assert (draws.mean(0) - network.means[0]).abs().max() < 0.05
    assert draws.std(0).sub(0.5).abs().max() < 0.05
    one, same, other = (network.draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(one[name].equal(same[name]) and not one[name].equal(other[name]) for name in network.names)


def test_gradient_reaches_every_mean_deviation_and_the_priors_scale() -> None:
    network = GaussianPosterior(build())
    loss = network(BATCH).embedding.square().mean() + kl_divergence(network.posterior, network.prior)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert all(mean.grad.abs().sum() > 0 for mean in network.means)  # type: ignore[union-attr]
    trained = {id(parameter) for parameter in network.parameters()}
    assert not trained & {id(parameter) for parameter in network._shell[0].parameters()}


def test_the_divergence_is_that_of_what_moved() -> None:
    network = GaussianPosterior(build(), std=0.1)
    with torch.no_grad():
        network.means[1].add_(0.2)
        network.log_stds[2].fill_(math.log(0.05))
    moved, narrowed = network.means[1].numel(), network.log_stds[2].numel()
    expected = moved * 0.2**2 / 0.1**2 / 2 + narrowed * (0.25 - 1 - math.log(0.25)) / 2
    assert kl_divergence(network.posterior, network.prior).item() == pytest.approx(expected, rel=1e-5)


def test_a_prior_from_elsewhere_is_kept_and_comes_back_with_the_state() -> None:
    prior, start = build(), build()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(0.01)
    network = GaussianPosterior(prior, start=dict(start.named_parameters()))
    assert torch.equal(network(BATCH, network.mean()).embedding, start(BATCH).embedding)
    assert all(network.prior_mean[name].equal(parameter) for name, parameter in prior.named_parameters())
    other = GaussianPosterior(build(), std=0.5)
    other.load_state_dict(network.state_dict())
    assert kl_divergence(other.posterior, other.prior).item() == pytest.approx(
        kl_divergence(network.posterior, network.prior).item()
    )


@pytest.mark.parametrize(("name", "options"), [("resnet", {"depth": 18, "stem": "small"}), ("cifar_resnet", {}),
                                               ("mobilenet", {})])  # fmt: skip
def test_batch_norm_is_refused_and_can_be_replaced(name: str, options: dict[str, object]) -> None:
    encoder = build(name, **options)
    with pytest.raises(ValueError, match=r"running_mean is a running statistic of the data"):
        GaussianPosterior(encoder)
    changed = without_running_statistics(encoder).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in changed.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    assert [*dict(changed.named_parameters())] == [*dict(encoder.named_parameters())]
    network = GaussianPosterior(changed, std=1e-6)
    alone = torch.cat([network(BATCH[row : row + 1], network.mean()).embedding for row in range(3)])
    assert torch.allclose(network(BATCH, network.mean()).embedding, alone, atol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="std must be above 0, got 0"):
        GaussianPosterior(build(), std=0)
    with pytest.raises(ValueError, match="the weights to start from are those of another encoder"):
        GaussianPosterior(build(), start=dict(build(stages=2).named_parameters()))
