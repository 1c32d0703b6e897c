"""Builds and checks the module of a pretraining from its config."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from crossmodal import MULTIVIEW
from crossmodal.contrast.queue import Queue
from crossmodal.data.manifest import Manifest
from crossmodal.data.views import View
from crossmodal.encoders import Encoder
from crossmodal.modules.base import TrainingModule, refuse_taken
from crossmodal.modules.pretraining import Branch, LocalPretraining, Pretraining, check_stages, find_pairings, name_crop
from crossmodal.modules.projector import MapProjector, Projector
from crossmodal.multiview import Multiview, Pairings
from pipelines.building.encoders import build_student
from pipelines.config import ConfigError, at
from pipelines.schemas.pretrain import Config, MultiviewConfig

STALE = "its queue holds embeddings of earlier weights, which drift away from the current ones; set momentum"


def spread_views(config: Config, views: Mapping[str, View]) -> dict[str, View]:
    """Every encoder's view, once for each crop."""
    named = dict.fromkeys(encoder.view for encoder in config.encoders.values())
    return {name_crop(name, crop): replace(views[name], crop=crop) for name in named for crop in range(config.crops)}


def all_mask(config: Config) -> bool:
    """True if training leaves out what a pair lacks and learns from the rest; otherwise it needs complete pairs."""
    return config.gradients.unit is None and all(MULTIVIEW.get(each.name).masks for each in config.objectives.values())


def build_pretraining(
    config: Config, views: dict[str, View], held: Manifest
) -> tuple[TrainingModule, dict[str, Encoder], list[str]]:
    """The module that is trained, its encoders by name, and cautions about the config for the user.

    Raises:
        ConfigError: it cannot be built, or needs something that the pairs lack.
    """
    for name in config.encoders:
        with at("encoders"):
            refuse_taken(name, "an encoder")
    with at("graph"):
        pairings = find_pairings([*config.encoders], config.crops, graph=config.graph, core=config.core,
                           symmetric=config.symmetric)  # fmt: skip
    encoders = {name: build_student(each, views, 0, key=f"encoders.{name}") for name, each in config.encoders.items()}
    build_any = _build_whole if config.gradients.unit is None else _build_local
    module, objectives = build_any(config, encoders, pairings, held)
    cautions = [(name, caution) for name, objective in objectives.items() for caution in objective.cautions()]
    if config.momentum is None:
        holds = [name for name, each in objectives.items() if any(isinstance(part, Queue) for part in each.modules())]
        cautions += [(name, STALE) for name in holds]
    return module, encoders, [f"objectives.{name}: {caution}" for name, caution in cautions]


def _build_whole(
    config: Config, encoders: dict[str, Encoder], pairings: Pairings, held: Manifest
) -> tuple[TrainingModule, dict[str, Multiview]]:
    head, momentum, dim = config.head, config.momentum, config.head.dim
    branches = {
        name: Branch(encoder, config.encoders[name].view, _projector(config, encoder.spec.dim))
        for name, encoder in encoders.items()
    }
    predictors = {}
    if momentum is not None and momentum.predictor:
        predictors = {
            name: Projector(dim, layers=2, hidden=_hidden(config, encoder.spec.dim), dim=dim, norm=head.norm)
            for name, encoder in encoders.items()
        }
    objectives = {name: _build_objective(name, each, dim, pairings, held) for name, each in config.objectives.items()}
    with at("train" if config.train.chunk else "objectives"):
        module = Pretraining(
            branches,
            objectives,
            {name: each.weight for name, each in config.objectives.items()},
            crops=config.crops,
            pairings=pairings,
            momentum=None if momentum is None else momentum.decay,
            predictors=predictors,
            chunk=config.train.chunk,
        )
    return module, objectives


def _build_local(
    config: Config, encoders: dict[str, Encoder], pairings: Pairings, held: Manifest
) -> tuple[TrainingModule, dict[str, Multiview]]:
    unit, head = config.gradients.unit, config.head
    assert unit is not None
    (encoder,), (only,) = encoders.values(), config.encoders.values()
    with at("gradients.unit"):
        check_stages(encoder, unit)
    stages = encoder.spec.maps[unit - 1 :]
    heads = nn.ModuleList(
        MapProjector(shape, block=config.gradients.block, layers=head.layers, hidden=_hidden(config, shape[0]),
                     dim=head.dim, norm=head.norm)
        for shape in stages
    )  # fmt: skip
    objectives = {
        name: [_build_objective(name, each, head.dim, pairings, held) for _ in stages]
        for name, each in config.objectives.items()
    }
    with at("objectives"):
        module = LocalPretraining(
            Branch(encoder, only.view, heads),
            objectives,
            {name: each.weight for name, each in config.objectives.items()},
            crops=config.crops,
            pairings=pairings,
            unit=unit,
        )
    return module, {name: each[0] for name, each in objectives.items()}


def _projector(config: Config, dim: int) -> Projector:
    head = config.head
    return Projector(dim, layers=head.layers, hidden=_hidden(config, dim), dim=head.dim, norm=head.norm)


def _hidden(config: Config, dim: int) -> int:
    hidden = round(dim * config.head.width)
    if hidden < 1:
        raise ConfigError([f"head.width is too small: {config.head.width:g} times {dim} hidden units rounds to 0"])
    return hidden


def _build_objective(name: str, asked: MultiviewConfig, dim: int, pairings: Pairings, held: Manifest) -> Multiview:
    with at(f"objectives.{name}"):
        objective = MULTIVIEW.get(asked.name)(dim, pairings, held.pairs, **asked.options)
        if not (pairings or objective.takes_one_view):
            raise ValueError("no two views form a positive pair; set crops=2, or add an encoder")
    if objective.needs_labels and not any(held.labels.values()):
        raise ConfigError([f"objectives.{name} needs labels, and the pairs have none"])
    return objective
