"""Compute what frozen teachers say of every pair, once, for transfers that read it instead of running them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines._config import FieldError, free, number
from pipelines._schema import NAME, LookConfig, TeacherConfig, ViewConfig, check_views

flags = {
    "--check": "read every byte of a folder of features; name everything that is wrong",
    "--info": "what a folder of features holds, and what it was made from",
}


@dataclass(frozen=True)
class Config:
    """What `crossmodal features` reads."""

    data: str  # folder of paired shards
    views: dict[str, ViewConfig]  # named uses of modalities, as in the transfer; each teacher names one
    teachers: dict[str, TeacherConfig]  # frozen networks by name, as in the transfer
    look: LookConfig = field(default_factory=LookConfig)  # the transfer's train.look; windows: how many are kept a pair
    maps: bool = False  # keep also the map of every stage, and what enters the first: often a hundred times the space
    preactivations: bool = False  # keep also the maps before their last non-linearity
    dtype: Literal["float16", "float32"] = "float16"  # of the numbers that are kept
    on_error: Literal["stop", "skip"] = "stop"  # an unreadable pair; skip: named, counted, and without features
    seed: int = 0  # of windows and augmentation, as in the transfer
    batch_size: int = number(256, least=1, free=True)  # looks a forward pass
    workers: int = number(2, least=0, free=True)  # processes a rank that read and decode
    output: str = free("runs/features")  # the run's folder; a teacher's features lie in it under the teacher's name

    def __post_init__(self) -> None:
        check_views(self.views, {f"teachers.{name}.view": teacher.view for name, teacher in self.teachers.items()})
        if not self.teachers:
            raise FieldError("teachers", "must name at least one teacher")
        for name, teacher in self.teachers.items():
            if not NAME.fullmatch(name):
                raise FieldError(f"teachers.{name}", "needs another name: a folder's, of letters, digits, _ and -")
            if teacher.features is not None:
                raise FieldError(f"teachers.{name}.features", "must be null: they are what is made here")
        if self.look.windows is None:
            raise FieldError("look.windows", "must be given: how many windows of each pair to keep")
        if self.preactivations and not self.maps:
            raise FieldError("preactivations", "must be false, or maps true")


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads."""
    from pipelines import _build as build
    from pipelines._config import at

    found = {"data": build.open_shards(config.data, "data").manifest.digest}
    for name, teacher in config.teachers.items():
        with at(f"teachers.{name}.weights"):
            found[f"teachers.{name}"] = build.teacher_digest(teacher)
    return found


def run(config: Config, path: Path) -> None:
    """Writes a folder of features for every teacher."""
    from pipelines import _processes
    from pipelines._extraction import Extraction, clean
    from pipelines._run import RunFolder

    run = RunFolder.open("features", config, inputs)
    if run.is_done():
        clean(config, run)  # of one that was killed after its report
        return
    _processes.meet()
    extraction = Extraction.of(config, run)
    run.begin()
    run.finish({"figures": extraction.extract()})
    clean(config, run)


def inspect(flag: str, path: Path) -> int:
    """Looks at features that are there; 1 where --check finds something wrong."""
    from crossmodal.features import read_manifest
    from crossmodal.manifest import MANIFEST
    from crossmodal.verify import check_tars
    from pipelines._errors import printable

    inside = sorted(found.parent for found in path.glob(f"*/{MANIFEST}"))
    folders = [path] if (path / MANIFEST).is_file() or not inside else inside
    if flag == "--info":
        print(printable("\n".join(_describe(folder) for folder in folders)))
        return 0
    problems = [problem for folder in folders for problem in check_tars(folder, read_manifest(folder).shards, {})]
    print(printable("\n".join(problems) or f"{path}: nothing wrong"))
    return 1 if problems else 0


def _describe(folder: Path) -> str:
    from crossmodal.features import read_manifest, sizes
    from pipelines._config import leaves

    manifest = read_manifest(folder)
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    members = ", ".join(f"{name} {list(each)}" for name, each in sizes(manifest.spec).items())
    lines = [
        f"{folder}: {manifest.pairs} pairs ({manifest.unreadable} unreadable) in {len(manifest.shards)} shards, "
        f"{size:.1f} MB, {manifest.digest[:12]}",
        f"  {manifest.windows} windows a pair, {manifest.dtype}: {members}",
        *(f"  {key}: {value}" for key, value in leaves(manifest.origin).items()),
    ]
    return "\n".join(lines)
