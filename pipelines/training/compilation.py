"""Compiles networks before a training, as `train.compile` asks."""

import importlib.util
import os
import shutil
from collections.abc import Mapping

import torch
from torch import nn

from pipelines.config import ConfigError
from pipelines.schemas.common import TrainConfig

BACKEND = "inductor"
COMPILERS = ("g++", "c++", "clang++")


def check_compiler(config: TrainConfig) -> None:
    """Refuses to compile where the tools for it are missing.

    Raises:
        ConfigError: there is no C++ compiler, or for a GPU no Triton.
    """
    if not config.compile:
        return
    named = os.environ.get("CXX")
    if not any(map(shutil.which, [named] if named else COMPILERS)):
        tried = f"CXX={named}" if named else ", ".join(COMPILERS)
        raise ConfigError([f"train.compile needs a C++ compiler, and {tried} cannot be found; install one, name it in "
                           "the variable CXX, or set train.compile=false"])  # fmt: skip
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        raise ConfigError(["train.compile needs Triton on a GPU; pip install triton, or set train.compile=false"])


def compile_networks(config: TrainConfig, trained: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module]) -> None:
    """Compiles the forward and backward passes of networks in place, each when it is first called.

    The modules, and the names in their states, stay as they are; only their calls change.
    """
    for networks, chosen in ((trained, "student"), (frozen, "teacher")):
        for network in networks.values():
            if config.compile in (True, chosen):
                network.compile(backend=BACKEND, dynamic=False)
