"""Imports what commands import: loaded once, by the process that the commands of tests are forked from."""

import importlib
import pkgutil

import accelerate.utils  # noqa: F401
import torch.distributed.nn
import torch.utils.data  # noqa: F401

import pipelines

for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
    importlib.import_module(module.name)
