"""The config of `crossmodal certify`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas.common import HeldOutConfig, StudentConfig, TeacherConfig, TrainConfig, ViewConfig, check_views

if TYPE_CHECKING:
    pass


RULES = ("bound", "stochastic", "deterministic")


@dataclass(frozen=True)
class TuplesConfig:
    """What a contrastive example is, and what it loses."""

    positives: Literal["class", "crop", "pair"] = "class"  # other pairs of it; another crop; what the teacher sees
    loss: Literal["logistic", "hinge", "simclr"] = "logistic"  # trained; but for simclr the zero-one loss is certified
    negatives: int = number(4, least=1)  # blocks of them in an example
    block: int | None = number(None, least=1)  # pairs averaged in a block; null: 2 with positives: class, else 1
    scale: float = number(1.0, above=0)  # of margins in training; with simclr 1 / temperature


@dataclass(frozen=True)
class PriorConfig:
    """Where the prior's means come from, which must not have seen the pairs that are certified."""

    share: float = number(0.0, least=0, below=1)  # of the pairs, from which it learns by the same loss; 0: from none
    train: TrainConfig = field(default_factory=TrainConfig)  # how it learns
    std: float = number(0.0183, above=0, below=0.3)  # s_P, or where it begins if it is learned
    learned: bool = True  # on a grid, which costs the union over it; false: s_P stays, at no cost
    unseen: bool = False  # true: you vouch that weights you name saw none of the pairs that are certified


@dataclass(frozen=True)
class CertificateConfig:
    """What the certificate says, and how often the weights are drawn for it."""

    delta: float = number(0.05, above=0, below=1)  # the probability that a bound does not hold, all in all
    delta_monte_carlo: float = number(0.01, above=0, below=1)  # the part of it for the finite number of drawn weights
    draws: int = number(1000, least=1)  # of all weights, at least, for each posterior
    at_once: int = number(4, least=1)  # examples that are judged by one draw
    greatest_variance: float = number(0.1, above=0)  # c of the grid of prior scales, s_P^2 = c exp(-j / b)
    steps: int = number(100, least=1)  # b of that grid

    def __post_init__(self) -> None:
        if self.delta_monte_carlo >= self.delta:
            raise FieldError(
                "delta_monte_carlo", f"must be below delta, {self.delta:g}, got {self.delta_monte_carlo:g}"
            )


@dataclass(frozen=True)
class Config:
    """What `crossmodal certify` reads."""

    data: str  # folder of shards; what neither the prior learns from nor selection looks at is certified
    views: dict[str, ViewConfig]  # named uses of modalities
    encoder: StudentConfig  # the network that becomes stochastic; its weights are the prior's means
    teacher: TeacherConfig | None = None  # frozen: sees positives and negatives of positives: pair
    test: str | None = None  # folder of shards to judge by; null: the pairs held out
    held_out: HeldOutConfig | None = None  # pairs of the data to judge by, in place of test
    tuples: TuplesConfig = field(default_factory=TuplesConfig)  # what an example is
    prior: PriorConfig = field(default_factory=PriorConfig)  # where the prior comes from
    trade_offs: list[float] = number([1e2, 1e3, 1e4, 1e5], above=0)  # lambda: a posterior each; KL costs KL / lambda
    validation: float = number(0.05, least=0, below=1)  # share of the other pairs, to select by and not certified
    select: Literal["bound", "stochastic", "deterministic"] = "bound"  # which posterior is exported
    certificate: CertificateConfig = field(default_factory=CertificateConfig)  # what it says
    train: TrainConfig = field(default_factory=lambda: TrainConfig(weight_decay=0))  # how posteriors learn
    seed: int = 0  # of weights, order, windows, examples and draws
    output: str = runtime_only("runs/certify")  # the run's folder

    def __post_init__(self) -> None:
        named = {"encoder.view": self.encoder.view}
        if self.teacher is not None:
            named["teacher.view"] = self.teacher.view
        check_views(self.views, named)
        if (self.test is None) == (self.held_out is None):
            raise FieldError("test", "must be given, or held_out in its place, but not both")
        if (self.teacher is None) == (self.tuples.positives == "pair"):
            raise FieldError("teacher", "must be given with tuples.positives: pair, and only there")
        if self.train.weight_decay:
            raise FieldError("train.weight_decay", f"must be 0, for it moves standard deviations to 1, got "
                             f"{self.train.weight_decay:g}")  # fmt: skip
        if len({*self.names}) < len(self.names):
            raise FieldError("trade_offs", f"must differ in their first six digits, by which posteriors are named, got "
                             f"{self.trade_offs}")  # fmt: skip
        if not self.validation and self.select != "bound":
            raise FieldError("select", f"must be bound where validation is 0, got {self.select}")

    @property
    def names(self) -> list[str]:
        """Of the posteriors, by their trade-offs."""
        return [f"lambda_{trade_off:g}" for trade_off in self.trade_offs]
