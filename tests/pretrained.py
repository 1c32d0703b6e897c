"""Small pretrainings, in float64, and the batches they take."""

import torch
from torch import Tensor, nn

from crossmodal import ENCODERS, MULTIVIEW
from crossmodal.contrast.options import Negatives
from crossmodal.modules.pretraining import LocalPretraining, Pretraining, Sight, name_look, which_meet
from crossmodal.modules.projector import MapProjector, Projector
from crossmodal.multiview import Multiview, Views
from crossmodal.objectives import Batch, Outcome
from modalities.common.random import generator

ROWS, PAIRS, DIM, SHAPE = 7, 30, 5, (1, 16, 16)


def joint(*names: str, looks: int = 2, rows: int = ROWS) -> Batch:
    random = generator("pretraining", "batch")
    views = [name_look(name, look) for name in names for look in range(looks)]
    draw = lambda: torch.randn(rows, *SHAPE, dtype=torch.float64, generator=random)  # noqa: E731
    return Batch({view: draw() for view in views}, torch.arange(rows) * 3 % PAIRS, torch.arange(rows) % 3, seed=5)


class Heard(Multiview):
    """Says what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.views: Views | None = None

    def forward(self, views: Views) -> Outcome:
        """The sum of all cosines."""
        self.views = views
        return Outcome(torch.einsum("abd,cbd->", views.queries, views.keys))


def build(
    *names: str,
    looks: int = 2,
    norm: str = "group",
    objective: Multiview | None = None,
    negatives: Negatives = Negatives(),
    head_norm: bool = False,
    symmetric: bool = True,
    stages: int = 4,
    predicted: bool = False,
    **options: object,
) -> Pretraining:
    torch.manual_seed(0)
    sights = {}
    for name in names:
        encoder = ENCODERS.get("convnet")(SHAPE, 0, width=4, norm=norm, stages=stages)
        head = Projector(encoder.spec.dim, layers=2, hidden=6, dim=DIM, norm=head_norm)
        sights[name] = Sight(encoder, name, head)
    predictors = {name: Projector(DIM, layers=2, hidden=6, dim=DIM, norm=False) for name in names}
    meets = which_meet([*names], looks, graph="full", core=None, symmetric=symmetric)
    objective = objective or MULTIVIEW.get("infonce")(DIM, meets, PAIRS, negatives=negatives)
    module = Pretraining(sights, {"said": objective}, {"said": 0.7}, looks=looks, meets=meets,
                         predictors=predictors if predicted else None, **options)  # fmt: skip
    return module.double()


def build_local(
    unit: int = 2, *, objective: type[Heard] | None = None, block: bool = True, norm: str = "group", **options: object
) -> LocalPretraining:
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")(SHAPE, 0, width=4, norm=norm)
    stages = encoder.spec.maps[unit - 1 :]
    heads = [MapProjector(shape, block=block, layers=2, hidden=6, dim=DIM, norm=False) for shape in stages]
    meets = which_meet(["rgb"], 2, graph="full", core=None, symmetric=True)
    objectives = [objective() if objective else MULTIVIEW.get("infonce")(DIM, meets, PAIRS, **options) for _ in stages]
    sight = Sight(encoder, "rgb", nn.ModuleList(heads))
    return LocalPretraining(sight, {"said": objectives}, {"said": 0.7}, looks=2, meets=meets, unit=unit).double()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
