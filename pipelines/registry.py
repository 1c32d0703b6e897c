"""The catalogue of pipelines: the commands in this package and in plug-ins."""

from types import ModuleType

from modalities.common.catalogue import Catalogue, suggest
from pipelines.config.errors import ConfigError

PIPELINES = Catalogue("pipelines", "", "pipeline", beside=("api", "registry"))

TOOLS = {  # commands with arguments in place of a config: the module that has the function of that name
    "completion": "pipelines.completion.command",
    "embed": "pipelines.embedding.command",
    "export": "pipelines.deployment.command",
    "init": "pipelines.proposals.command",
    "predict": "pipelines.prediction.command",
}


def find_pipeline(name: str) -> ModuleType:
    """The module of a pipeline, which has `Config` and `run`.

    Raises:
        ConfigError: there is no such pipeline.
    """
    if name not in PIPELINES.names():
        commands = ["list", "schema", *TOOLS]
        if name in commands:
            raise ConfigError([f"{name} is a command without a config; pipelines are {', '.join(PIPELINES.names())}"])
        raise ConfigError([f"pipeline {name!r} is not known{suggest(name, [*PIPELINES.names(), *commands])}"])
    return PIPELINES.module(name)
