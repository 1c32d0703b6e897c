"""Encoders with random weights: a Gaussian posterior over every parameter, with its prior."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from crossmodal.certificates.gaussians import Gaussian, spherical
from crossmodal.encoders import Encoder, Features


class GaussianPosterior(nn.Module):
    """Any encoder, with a mean and a standard deviation for each of its weights.

    The prior is N(w0, s_P^2 I). w0 are the encoder's initial weights, which must not depend on the data that are
    certified; s_P is learned. Posterior deviations begin at s_P. One draw of all weights serves a batch.

    Batch norm stores statistics of the data beside the weights, which no bound covers: replace it first, by
    `without_running_statistics` or `with_fixed_statistics`.

    Args:
        encoder: copied, in eval mode; its trainable weights are the prior's means, the others stay constant.
        start: the posterior's means, by the parameters' names; None: the prior's.
        std: the initial s_P.

    Raises:
        ValueError: `std` is not above 0, the encoder has running statistics, or `start` is of another encoder.
    """

    def __init__(
        self, encoder: Encoder, *, start: Mapping[str, Tensor] | None = None, std: float = math.exp(-4)
    ) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std must be above 0, got {std}")
        for name, _ in encoder.named_buffers():
            if "running_" in name:
                raise ValueError(f"{name} is a running statistic of the data, which no certificate covers; replace "
                                 "batch norm (norm: group), or fix it")  # fmt: skip
        self.spec = encoder.spec
        # in a list, so that its weights are not registered as parameters
        self._shell = [copy.deepcopy(encoder).eval().requires_grad_(False)]
        given = {name: item for name, item in encoder.named_parameters() if item.requires_grad}
        begin = given if start is None else start
        if {name: item.shape for name, item in begin.items()} != {name: item.shape for name, item in given.items()}:
            raise ValueError("the weights to start from are those of another encoder")
        self.names = list(given)
        self.means = nn.ParameterList(begin[name].detach().clone() for name in self.names)
        self.log_stds = nn.ParameterList(torch.full_like(given[name], math.log(std)) for name in self.names)
        self.log_prior_std = nn.Parameter(torch.tensor(math.log(std)))
        for number, name in enumerate(self.names):
            self.register_buffer(f"prior_mean_{number}", given[name].detach().clone())

    @property
    def prior_mean(self) -> dict[str, Tensor]:
        """w0, by name."""
        return {name: getattr(self, f"prior_mean_{number}") for number, name in enumerate(self.names)}

    @property
    def posterior(self) -> Gaussian:
        """The Gaussian from which weights are drawn."""
        stds = {name: item.exp() for name, item in zip(self.names, self.log_stds, strict=True)}
        return Gaussian(self.mean(), stds)

    @property
    def prior(self) -> Gaussian:
        """The prior at its current scale, which must be moved to a grid before anything is certified."""
        return spherical(self.prior_mean, self.log_prior_std.double().exp())

    def mean(self) -> dict[str, Tensor]:
        """The posterior's means, by name: the weights of the deterministic encoder."""
        return dict(zip(self.names, self.means, strict=True))

    def tensors(self) -> Iterator[Tensor]:
        """The weights, and the buffers of the encoder: the function depends on nothing else."""
        yield from self.state_dict().values()
        yield from self._shell[0].state_dict().values()

    def draw(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Weights from the posterior, with gradient to means and deviations; None: the global generator."""
        weights = {}
        for name, mean, log_std in zip(self.names, self.means, self.log_stds, strict=True):
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
            weights[name] = mean + log_std.exp() * noise
        return weights

    def forward(self, batch: Tensor, weights: Mapping[str, Tensor] | None = None) -> Features:
        """The encoder's features with the given weights, or with a new draw."""
        return functional_call(self._shell[0], dict(self.draw() if weights is None else weights), (batch,))

    def _apply(self, fn: object, recurse: bool = True) -> "GaussianPosterior":
        self._shell[0]._apply(fn)
        return super()._apply(fn, recurse)


def without_running_statistics(encoder: Encoder) -> Encoder:
    """A copy in which every batch norm is a group norm with the same scales and shifts.

    Group norm (Wu, He 2018, https://arxiv.org/abs/1803.08494) takes each sample's own statistics and keeps none.
    """
    return _replace_norms(encoder, _grouped)


def with_fixed_statistics(encoder: Encoder) -> Encoder:
    """A copy that computes what the encoder does in eval mode, with batch norm's statistics as constants.

    They are part of the function, like the number of layers, so they must come from the prior's data.
    """
    return _replace_norms(encoder, FixedNorm)


class FixedNorm(nn.Module):
    """Batch norm whose statistics are constants; its scale and shift are weights."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.mean, self.variance = (nn.Buffer(item.clone()) for item in (norm.running_mean, norm.running_var))

    def forward(self, maps: Tensor) -> Tensor:
        """The normalised maps."""
        return F.batch_norm(maps, self.mean, self.variance, self.weight, self.bias, training=False, eps=self.eps)


def _grouped(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    made = nn.GroupNorm(math.gcd(8, norm.num_features), norm.num_features, norm.eps, affine=norm.affine)
    if norm.affine:
        made.weight, made.bias = norm.weight, norm.bias
    return made


def _replace_norms(encoder: Encoder, make: Callable[[nn.BatchNorm2d], nn.Module]) -> Encoder:
    changed = copy.deepcopy(encoder)
    for parent in list(changed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, make(child))
    return changed
