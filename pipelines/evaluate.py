"""Compare students with training from scratch, random weights, their teacher and chance, over seeds."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.schemas.evaluate import Config


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads."""
    from crossmodal import models
    from pipelines.building.data import open_shards
    from pipelines.config import at
    from pipelines.evaluation.students import refuse_unlike, shared_teacher

    found = {"data.train": open_shards(config.data.train, "data.train").manifest.digest}
    if config.data.test is not None:
        found["data.test"] = open_shards(config.data.test, "data.test").manifest.digest
    with at("students"):
        for name, folders in config.students.items():
            digests = [models.digest(folder) for folder in folders]
            refuse_unlike(name, folders, digests)
            found[f"students.{name}"] = " ".join(digests)
    return found | shared_teacher(config)


def run(config: Config, path: Path) -> None:
    """Trains students that are missing, measures everything, and writes report.json and what the report draws."""
    from pipelines.evaluation.evaluator import Evaluator
    from pipelines.evaluation.more_students import train_missing
    from pipelines.reporting.answer import Evaluated, answer_of, plain_table
    from pipelines.runs import distributed
    from pipelines.runs.console import say
    from pipelines.runs.folder import RunFolder, is_main, read_report

    if config.trainings is not None:
        config = train_missing(config, path)
        distributed.wait()
    run = RunFolder.open("evaluate", config, inputs)
    if not run.is_done():
        distributed.meet()
        run.finish(Evaluator(config, run).measure())
    if not is_main():
        return
    figures = read_report(run.path)["figures"]
    if "verdict" in figures:  # earlier versions wrote none
        for table in answer_of([Evaluated(run.path.name, figures, {}, config)]).tables:
            say(f"{run.path}: means over seeds, of test pairs; accuracy and recall in %\n{plain_table(table)}")
        for line in figures["verdict"]:
            say(line)
