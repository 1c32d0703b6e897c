"""The config of `crossmodal certify`."""

from dataclasses import dataclass, field
from typing import Literal

from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas.common import (
    CacheConfig,
    HeldOutConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    ViewConfig,
    check_places,
    check_views,
)

RULES = ("bound", "stochastic", "deterministic")


@dataclass(frozen=True)
class TuplesConfig:
    """The contrastive examples and their loss."""

    positives: Literal["class", "crop", "pair"] = "class"  # same class, another crop, or the teacher's view of the pair
    loss: Literal["logistic", "hinge", "simclr"] = "logistic"  # trained loss; certified: zero-one loss or simclr
    negatives: int = number(4, least=1)  # blocks of negatives per example
    block: int | None = number(None, least=1)  # pairs averaged per block; null: 2 with positives: class, otherwise 1
    scale: float = number(1.0, above=0)  # factor of the margins in training; with simclr it is 1 / temperature


@dataclass(frozen=True)
class PriorConfig:
    """The prior over the weights. Its means must not depend on the certified pairs."""

    share: float = number(0.0, least=0, below=1)  # fraction of the pairs that trains it, with the same loss; 0: none
    train: TrainConfig = field(default_factory=TrainConfig)  # training of the prior
    std: float = number(0.0183, above=0, below=0.3)  # standard deviation s_P; its initial value if learned
    learned: bool = True  # learn s_P on a grid, at the cost of a union bound; false: fixed, at no cost
    unseen: bool = False  # true: you vouch that the weights in this config saw no certified pair


@dataclass(frozen=True)
class CertificateConfig:
    """The confidence of the bounds and the number of weight draws."""

    delta: float = number(0.05, above=0, below=1)  # probability that any of the bounds fails
    delta_monte_carlo: float = number(0.01, above=0, below=1)  # part of delta for the finite number of weight draws
    draws: int = number(1000, least=1)  # minimum number of weight draws per posterior
    at_once: int = number(4, least=1)  # examples evaluated per weight draw
    greatest_variance: float = number(0.1, above=0)  # c in the grid of prior scales, s_P^2 = c exp(-j / b)
    steps: int = number(100, least=1)  # b in that grid

    def __post_init__(self) -> None:
        if self.delta_monte_carlo >= self.delta:
            raise FieldError(
                "delta_monte_carlo", f"must be below delta, {self.delta:g}, got {self.delta_monte_carlo:g}"
            )


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal certify`."""

    data: str  # folder or URL of shards; the pairs not used by prior.share, validation or held_out are certified
    views: dict[str, ViewConfig]  # inputs by name
    encoder: StudentConfig  # the encoder that becomes stochastic; its weights are the prior's means
    teacher: TeacherConfig | None = None  # frozen encoder of positives: pair
    test: str | None = None  # folder of test shards; null: the held-out pairs
    held_out: HeldOutConfig | None = None  # test on part of data instead of test
    tuples: TuplesConfig = field(default_factory=TuplesConfig)  # the contrastive examples and their loss
    prior: PriorConfig = field(default_factory=PriorConfig)  # the prior over the weights
    trade_offs: list[float] = number([1e2, 1e3, 1e4, 1e5], above=0)  # lambdas, one posterior each; KL costs KL / lambda
    validation: float = number(0.05, least=0, below=1)  # fraction of the other pairs, for selection only
    select: Literal["bound", "stochastic", "deterministic"] = "bound"  # rule that selects the exported posterior
    certificate: CertificateConfig = field(default_factory=CertificateConfig)  # confidence and number of weight draws
    train: TrainConfig = field(default_factory=lambda: TrainConfig(weight_decay=0))  # training of the posteriors
    seed: int = 0  # seed of weights, order, crops, examples and draws
    cache: CacheConfig | None = runtime_only(None)  # local copies of shards in a store; null: none; see docs/scale.md
    output: str = runtime_only("runs/certify")  # folder of the run

    def __post_init__(self) -> None:
        check_places(data=self.data, test=self.test)
        named = {"encoder.view": self.encoder.view}
        if self.teacher is not None:
            named["teacher.view"] = self.teacher.view
        check_views(self.views, named)
        if (self.test is None) == (self.held_out is None):
            raise FieldError("test", "must be given, or held_out instead, but not both")
        if (self.teacher is None) == (self.tuples.positives == "pair"):
            raise FieldError("teacher", "must be given with tuples.positives: pair, and only then")
        if self.train.compile:
            raise FieldError("train.compile", "must be false: the weights are drawn anew in each step")
        if self.train.weight_decay:
            raise FieldError(
                "train.weight_decay", f"must be 0: it moves standard deviations to 1, got {self.train.weight_decay:g}"
            )
        if len({*self.names}) < len(self.names):
            raise FieldError(
                "trade_offs", f"must differ in their first six digits, which name the posteriors, got {self.trade_offs}"
            )
        if not self.validation and self.select != "bound":
            raise FieldError("select", f"must be bound where validation is 0, got {self.select}")

    @property
    def names(self) -> list[str]:
        """Names of the posteriors, from their trade-offs."""
        return [f"lambda_{trade_off:g}" for trade_off in self.trade_offs]
