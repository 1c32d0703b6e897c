"""Compare objectives over seeds: one teacher, one data set, one budget, weights tuned on pairs held out of training."""

from collections.abc import Mapping
from pathlib import Path

from pipelines import transfer
from pipelines.config import ConfigError, within
from pipelines.runs import distributed
from pipelines.schemas.compare import Config


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads; of the test set, which stays closed for long, that of its manifest's bytes."""
    from crossmodal.data.manifest import MANIFEST, sha256_of
    from crossmodal.stores.paths import to_path

    assert config.evaluate.data.test is not None
    test = to_path(config.evaluate.data.test) / MANIFEST
    if not test.is_file():
        raise ConfigError([f"evaluate.data.test: {test} is missing; make shards with: crossmodal shards CONFIG"])
    with within("transfer"):
        found = transfer.inputs(config.transfer)
    digest = sha256_of(test)
    if digest == sha256_of(to_path(config.transfer.data) / MANIFEST):
        raise ConfigError([f"evaluate.data.test: {test.parent} has the pairs of transfer.data; judge by others"])
    return {**found, "evaluate.data.test": digest}


def run(config: Config, path: Path) -> None:
    """Tunes, trains, judges, and writes the table: table.md, results.json, report.json and report/report.html."""
    from pipelines.building.published import settle
    from pipelines.comparison.comparison import Comparison

    Comparison(distributed.together(lambda: settle(config)), path).run()
