"""Imports what commands import: loaded once, by the process that the commands of tests are forked from."""

import importlib
import pkgutil

import accelerate.utils  # noqa: F401
import kornia  # noqa: F401
import torch._dynamo  # which every optimiser imports, with 800 modules
import torch.distributed.nn  # noqa: F401

import modalities
import pipelines

for package in (modalities, pipelines):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
