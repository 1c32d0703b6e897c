"""Pretrain encoders without a teacher, from augmented crops of one or more modalities, with or without labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.schemas.pretrain import Config

if TYPE_CHECKING:
    from torch import nn

    from crossmodal.modules.base import Losses
    from crossmodal.objectives import Batch


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the inputs of the run."""
    from pipelines.building.data import open_shards
    from pipelines.building.encoders import student_digest

    digests = {"data": open_shards(config.data, "data").manifest.digest}
    for name, encoder in config.encoders.items():
        digests |= student_digest(encoder, f"encoders.{name}")
    return digests


def step(model: "nn.Module", batch: "Batch") -> "Losses":
    """The losses of a batch."""
    return model(batch)


def run(config: Config, path: Path) -> None:
    """Trains and exports the encoders."""
    from crossmodal.data.held_out import thin_out
    from crossmodal.encoders import Encoder
    from pipelines.building.data import leave_out, open_parts, open_views
    from pipelines.building.exporting import export_encoder
    from pipelines.building.pretraining import all_mask, build_pretraining, spread_views
    from pipelines.config import ConfigError, at
    from pipelines.runs.console import say
    from pipelines.runs.folder import RunFolder
    from pipelines.training.accelerator import open_accelerator
    from pipelines.training.launcher import refuse_sharded
    from pipelines.training.loop import seed_everything
    from pipelines.training.monitor import Monitor
    from pipelines.training.trials import training_for

    run = RunFolder.open("pretrain", config, inputs)
    config = run.config  # settled
    if config.trial != "overfit" and run.is_done():
        return
    accelerator = open_accelerator(config.train, run.path)
    share = config.train.batch_size // (accelerator.num_processes * config.train.accumulate)
    if share < 2:
        raise ConfigError([f"train.batch_size must give every part of a step two pairs to compare, got {share}"])
    shards, _ = open_parts(config.data, config.held_out, "data")
    if config.gradients.unit is not None:
        refuse_sharded("gradients.unit")
    if config.monitor.pairs:
        refuse_sharded("monitor, which rank 0 runs alone (monitor.pairs=0 turns it off),")
    if config.keep != "all":
        with at("keep"):
            shards = thin_out(shards, config.keep)
    if not all_mask(config):
        read = [config.views[encoder.view].modality for encoder in config.encoders.values()]
        shards = leave_out(shards, read, "data")
    networks = {f"encoders.{name}": encoder for name, encoder in config.encoders.items()}
    views = open_views(shards, config.views, networks)
    seed_everything(config.seed, "weights")
    module, encoders, cautions = build_pretraining(config, views, shards.manifest)
    for caution in cautions if accelerator.is_main_process else ():
        say(f"{run.path}: {caution}")
    fields = {views[encoder.view].modality.field for encoder in config.encoders.values()}
    monitor = Monitor(run, config, shards, views, encoders, accelerator.device)
    training = training_for(config.trial)(
        accelerator, run, config.train, module, step, shards, spread_views(config, views), config.seed,
        masks=not fields.isdisjoint(shards.manifest.lacking), monitor=monitor,
    )  # fmt: skip
    figures = training.fit()
    if accelerator.is_main_process:
        for name, encoder in zip(encoders, training.module.trained.values(), strict=True):
            assert isinstance(encoder, Encoder)
            folder = run.path / "model" if len(encoders) == 1 else run.path / name / "model"
            export_encoder(folder, config.encoders[name], config.views, views, encoder)
        figures["warnings"] = monitor.warnings()
    run.finish({"figures": figures})
