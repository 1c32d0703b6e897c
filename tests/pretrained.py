"""Small pretrainings, in float64, and the batches they take."""

import torch
from torch import Tensor, nn

from crossmodal import ENCODERS, MULTIVIEW
from crossmodal.contrast.options import Negatives
from crossmodal.modules.pretraining import Branch, LocalPretraining, Pretraining, find_pairings, name_crop
from crossmodal.modules.projector import MapProjector, Projector
from crossmodal.multiview import Multiview, Views
from crossmodal.objectives import Batch, Outcome
from modalities.common.random import generator

ROWS, PAIRS, DIM, SHAPE = 7, 30, 5, (1, 16, 16)


def joint(*names: str, crops: int = 2, rows: int = ROWS) -> Batch:
    random = generator("pretraining", "batch")
    views = [name_crop(name, crop) for name in names for crop in range(crops)]
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
    crops: int = 2,
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
    branches = {}
    for name in names:
        encoder = ENCODERS.get("convnet")(SHAPE, 0, width=4, norm=norm, stages=stages)
        head = Projector(encoder.spec.dim, layers=2, hidden=6, dim=DIM, norm=head_norm)
        branches[name] = Branch(encoder, name, head)
    predictors = {name: Projector(DIM, layers=2, hidden=6, dim=DIM, norm=False) for name in names}
    pairings = find_pairings([*names], crops, graph="full", core=None, symmetric=symmetric)
    objective = objective or MULTIVIEW.get("infonce")(DIM, pairings, PAIRS, negatives=negatives)
    module = Pretraining(branches, {"said": objective}, {"said": 0.7}, crops=crops, pairings=pairings,
                         predictors=predictors if predicted else None, **options)  # fmt: skip
    return module.double()


def build_local(
    unit: int = 2, *, objective: type[Heard] | None = None, block: bool = True, norm: str = "group", **options: object
) -> LocalPretraining:
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")(SHAPE, 0, width=4, norm=norm)
    stages = encoder.spec.maps[unit - 1 :]
    heads = [MapProjector(shape, block=block, layers=2, hidden=6, dim=DIM, norm=False) for shape in stages]
    pairings = find_pairings(["rgb"], 2, graph="full", core=None, symmetric=True)
    objectives = [
        objective() if objective else MULTIVIEW.get("infonce")(DIM, pairings, PAIRS, **options) for _ in stages
    ]
    branch = Branch(encoder, "rgb", nn.ModuleList(heads))
    return LocalPretraining(branch, {"said": objectives}, {"said": 0.7}, crops=2, pairings=pairings, unit=unit).double()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
