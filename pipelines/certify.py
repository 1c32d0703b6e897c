"""Train a posterior over the weights of an encoder and certify a bound on its contrastive risk."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.schemas.certify import Config


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the inputs of the run."""
    from pipelines.building.data import open_shards
    from pipelines.building.encoders import student_digest
    from pipelines.building.teachers import teacher_digest
    from pipelines.config import at

    digests = {"data": open_shards(config.data, "data").manifest.digest}
    if config.test is not None:
        digests["test"] = open_shards(config.test, "test").manifest.digest
    digests |= student_digest(config.encoder, "encoder")
    if config.teacher is not None:
        with at("teacher.weights"):
            digests["teacher"] = teacher_digest(config.teacher)
    return digests


def run(config: Config, path: Path) -> None:
    """Trains the prior and the posteriors, certifies each, and exports the selected posterior."""
    from pipelines.certification.certification import Certification
    from pipelines.runs.folder import RunFolder

    run = RunFolder.open("certify", config, inputs)
    config = run.config  # with what the names of published networks imply
    if not run.is_done():
        run.finish({"figures": Certification(config, run).certify()})
