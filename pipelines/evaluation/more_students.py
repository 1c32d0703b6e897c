"""Training of further students that differ by their seed alone."""

from dataclasses import replace
from itertools import count
from pathlib import Path

from pipelines.config import ConfigError
from pipelines.registry import find_pipeline
from pipelines.runs.folder import read_report
from pipelines.runs.lineage import origin
from pipelines.schemas.evaluate import Config


def train_missing(config: Config, path: Path) -> Config:
    """The config with as many students of each name as `trainings` says; those that are missing are trained.

    A further student of runs/x is trained like the first one of its name, into runs/x_seed_N, where N is its seed. One
    that was trained before is reused, and one that was interrupted is continued.

    Args:
        config: of the evaluation.
        path: of its file.

    Raises:
        ConfigError: a student cannot be trained again.
    """
    assert config.trainings is not None
    found = {}
    for name, folders in config.students.items():
        found[name] = [*folders]
        if len(folders) < config.trainings:
            run, trained = origin(folders[0])
            if Path(folders[0]).resolve() != run.resolve():
                raise ConfigError([f"trainings: students.{name} is one of several encoders of {run}, which are not "
                                   "trained again; train other seeds yourself and list their folders"])  # fmt: skip
            kept = [key for key, teacher in getattr(trained, "teachers", {}).items()
                    if getattr(teacher, "features", None) is not None]  # fmt: skip
            if kept:
                raise ConfigError([f"trainings: {run} was taught by the stored features of teacher {kept[0]!r}, whose "
                                   "crops belong to its seed; train other seeds yourself and list their folders in "
                                   f"students.{name}"])  # fmt: skip
            pipeline, taken = find_pipeline(read_report(run)["pipeline"]), {_seed(folder) for folder in folders}
            free = (seed for seed in count() if seed not in taken)
            while len(found[name]) < config.trainings:
                again = replace(trained, seed=(seed := next(free)), output=f"{run}_seed_{seed}")
                pipeline.run(again, path)
                found[name].append(again.output)
    return replace(config, students=found, trainings=None)


def _seed(folder: str) -> int:
    return origin(folder)[1].seed
