"""Modules of earlier versions: their import is an error that gives the new name."""

import importlib.abc
import sys

MOVED = {
    "crossmodal.certifying": "crossmodal.modules.certifying",
    "crossmodal.export": "crossmodal.models",
    "crossmodal.extraction": "crossmodal.data.extraction",
    "crossmodal.feature_packing": "crossmodal.data.feature_writer",
    "crossmodal.features": "crossmodal.data.features",
    "crossmodal.gradients": "crossmodal.modules.gradient_cache",
    "crossmodal.held_out": "crossmodal.data.held_out",
    "crossmodal.index": "crossmodal.data.index",
    "crossmodal.loading": "crossmodal.data.loader",
    "crossmodal.looks": "crossmodal.data.views",
    "crossmodal.manifest": "crossmodal.data.manifest",
    "crossmodal.minimised": "crossmodal.modules.base",
    "crossmodal.packing": "crossmodal.data.writer",
    "crossmodal.plan": "crossmodal.data.order",
    "crossmodal.pretraining": "crossmodal.modules.pretraining",
    "crossmodal.shards": "crossmodal.data.shards",
    "crossmodal.splitting": "crossmodal.data.splits",
    "crossmodal.stochastic": "crossmodal.certificates.posterior",
    "crossmodal.streams": "crossmodal.data.reader",
    "crossmodal.transfer": "crossmodal.modules.transfer",
    "crossmodal.verify": "crossmodal.data.verify",
    "crossmodal.watching": "crossmodal.modules.collapse",
    "pipelines._build": "pipelines.building",
    "pipelines._config": "pipelines.config",
    "pipelines._run": "pipelines.runs.folder",
    "pipelines._schema": "pipelines.schemas.common",
}


class Moved(importlib.abc.MetaPathFinder):
    """Python asks it for modules that it did not find anywhere else."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raises for a module of earlier versions.

        Raises:
            ModuleNotFoundError: with the module's new name.
        """
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} is now {MOVED[name]}", name=name)


def name_moved_modules() -> None:
    """Adds the finder, once."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
