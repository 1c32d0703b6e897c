"""Cache the outputs of frozen teachers for all pairs, so that a transfer reads them instead of running the teachers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.schemas.features import Config

if TYPE_CHECKING:
    from crossmodal.stores.paths import AnyPath

flags = {
    "--check": "read every byte of a folder of features and list all problems",
    "--info": "describe a folder of features and its origin",
}


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the inputs of the run."""
    from pipelines.building.data import open_shards
    from pipelines.building.teachers import teacher_digest
    from pipelines.config import at

    digests = {"data": open_shards(config.data, "data").manifest.digest}
    for name, teacher in config.teachers.items():
        with at(f"teachers.{name}.weights"):
            digests[f"teachers.{name}"] = teacher_digest(teacher)
    return digests


def run(config: Config, path: Path) -> None:
    """Writes one folder of features per teacher."""
    from pipelines.extraction.extraction import Extraction, clean
    from pipelines.runs import distributed
    from pipelines.runs.folder import RunFolder

    run = RunFolder.open("features", config, inputs)
    config = run.config  # with what the names of published networks imply
    if run.is_done():
        clean(config, run)  # a run may have been killed after its report
        return
    distributed.meet()
    extraction = Extraction.of(config, run)
    run.begin()
    run.finish({"figures": extraction.extract()})
    clean(config, run)


def inspect(flag: str, path: "AnyPath") -> int:
    """Describes or checks features; returns 1 if --check finds a problem."""
    from crossmodal.data.features import read_manifest
    from crossmodal.data.manifest import MANIFEST
    from crossmodal.data.verify import check_tars
    from pipelines.config.errors import printable

    folders: list[AnyPath] = [path]
    if not (path / MANIFEST).is_file():  # only now, because a web server may not list a folder
        folders = sorted((manifest.parent for manifest in path.glob(f"*/{MANIFEST}")), key=str) or [path]
    if flag == "--info":
        print(printable("\n".join(_describe(folder) for folder in folders)))
        return 0
    problems = [problem for folder in folders for problem in check_tars(folder, read_manifest(folder).shards, {})]
    print(printable("\n".join(problems) or f"{path}: nothing wrong"))
    return 1 if problems else 0


def _describe(folder: "AnyPath") -> str:
    from crossmodal.data.features import read_manifest, sizes
    from pipelines.config import leaves

    manifest = read_manifest(folder)
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    members = ", ".join(f"{name} {list(each)}" for name, each in sizes(manifest.spec).items())
    lines = [
        f"{folder}: {manifest.pairs} pairs ({manifest.unreadable} unreadable) in {len(manifest.shards)} shards, "
        f"{size:.1f} MB, {manifest.digest[:12]}",
        f"  {manifest.windows} windows a pair, {manifest.dtype}: {members}",
        *(f"  {re.sub('^look', 'crop', key)}: {value}" for key, value in leaves(manifest.origin).items()),
    ]
    return "\n".join(lines)
