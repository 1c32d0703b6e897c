"""The loop of `crossmodal features`: the processes share the shards, and each shard is written once."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from crossmodal.data.extraction import Crops, Extract, batches_of, crop_batches
from crossmodal.data.feature_writer import FeatureTar, is_done, remove_marks, write_manifest
from crossmodal.data.features import DTYPES, kept, round_rows, take_apart
from crossmodal.data.reader import to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Spec
from pipelines.building.cached_features import origin
from pipelines.building.data import leave_out, networks_of, open_shards, open_views
from pipelines.building.teachers import Teacher, build_teachers
from pipelines.config import at
from pipelines.config.errors import RunError
from pipelines.runs import distributed
from pipelines.runs.console import progress_bar, say, warn
from pipelines.runs.folder import RunFolder
from pipelines.schemas.features import Config


@dataclass
class Extraction:
    """One extraction, for all teachers in one pass."""

    config: Config
    run: RunFolder
    shards: Shards
    views: dict[str, View]  # of the teachers
    teachers: dict[str, Teacher]
    specs: dict[str, Spec]  # of the cached features
    state: PartialState = field(default_factory=PartialState)

    @classmethod
    def of(cls, config: Config, run: RunFolder) -> "Extraction":
        """Opens, builds and checks everything; writes nothing."""
        shards = open_shards(config.data, "data")
        used = {teacher.view: config.views[teacher.view] for teacher in config.teachers.values()}
        views = open_views(shards, used, networks_of(config.teachers), repeating=used)
        leave_out(shards, [view.modality for view in used.values()], "data")  # they get records without features
        teachers = build_teachers(config.teachers, views)
        with at("teachers"):
            specs = {
                name: kept(teacher.spec, maps=config.maps, preactivations=config.preactivations, stages=config.stages)
                for name, teacher in teachers.items()
            }
        return cls(config, run, shards, views, teachers, specs)

    def extract(self) -> dict[str, Any]:
        """Writes the shards that are missing; gives the metrics for the report."""
        start, files = time.monotonic(), [shard.file for shard in self.shards.manifest.shards]
        left = [
            number for number, file in enumerate(files)
            if not all(is_done(self.run.path / name / file) for name in self.teachers)
        ]  # fmt: skip
        say(f"{self.run.path}: {len(self.shards)} pairs, {self.config.crop.windows} windows each; {len(left)} of "
            f"{len(files)} shards to do; {self.state.num_processes} processes on {self.state.device}")  # fmt: skip
        distributed.wait()  # no process writes before all have read what exists
        if self.state.is_main_process:
            again = {files[number] for number in left}
            self.run.forget(lambda line: line["shard"] in again)
        for teacher in self.teachers.values():
            teacher.encoder.to(self.state.device)
        crops = self._write(left[self.state.process_index :: self.state.num_processes])
        distributed.wait()
        seconds = time.monotonic() - start
        teachers = {name: self._finish(name, files) for name in self.teachers} if self.state.is_main_process else {}
        return {"teachers": teachers, "seconds": round(seconds, 1), "looks_per_second": round(crops / seconds, 1)}

    def _write(self, numbers: list[int]) -> int:
        """Writes the tars of these shards; gives the number of crops that this process encoded."""
        loaded, total = self._load(numbers), 0
        with self._bar(numbers) as bar:
            for number in numbers:
                file, count = self.shards.manifest.shards[number].file, len(self._batches(number))
                crops, began = 0, time.monotonic()
                with contextlib.ExitStack() as stack:
                    tars = {
                        name: stack.enter_context(FeatureTar(self.run.path / name / file)) for name in self.teachers
                    }
                    for batch in islice(loaded, count):
                        self._add(tars, batch)
                        bar.update(len(batch.keys))
                        crops += 0 if batch.part is None else len(batch.part.index)
                    if self.state.is_main_process:  # before the tars close, so that every finished shard has its line
                        self.run.log({"shard": file, "crops": crops, "seconds": round(time.monotonic() - began, 1)})
                total += crops
        return total

    def _add(self, tars: dict[str, FeatureTar], crops: Crops) -> None:
        """Adds a batch of pairs to the tar of every teacher, in order."""
        features = self._features(crops)
        for problem, is_incomplete in zip(crops.problems, crops.incomplete, strict=True):
            if problem is not None and not is_incomplete:  # of those one line says how many they are
                warn(f"{self.run.path}: left without features: {problem}")
        for name, tar in tars.items():
            row = 0
            for key, problem in zip(crops.keys, crops.problems, strict=True):
                if problem is not None:
                    tar.add_unreadable(key, problem)
                    continue
                tar.add(key, {member: values[row] for member, values in features[name].items()})
                row += 1

    def _features(self, crops: Crops) -> dict[str, dict[str, np.ndarray]]:
        """Arrays of shape [readable pairs, windows, *size], by teacher and member."""
        if crops.part is None:
            return {}
        batch, arrays = to_batch(crops.part, self.views, self.state.device), {}
        for name, teacher in self.teachers.items():
            members = take_apart(teacher.forward(batch), self.specs[name], self.config.stages)
            arrays[name] = {member: self._round(name, member, values) for member, values in members.items()}
        return arrays

    def _round(self, name: str, member: str, values: torch.Tensor) -> np.ndarray:
        try:
            rounded = round_rows(values, DTYPES[self.config.dtype])
        except ValueError as error:
            hint = "; set dtype=float32 and another output" if self.config.dtype == "float16" else ""
            raise RunError(f"teachers.{name}: {member}: {error}{hint}") from error
        return rounded.unflatten(0, (-1, self.config.crop.windows or 1)).cpu().numpy()

    def _finish(self, name: str, files: list[str]) -> dict[str, Any]:
        """Writes the manifest of a teacher's folder; gives its metrics."""
        config = self.config
        manifest = write_manifest(
            self.run.path / name,
            files,
            origin=origin(config, name, config.crop, self.shards, self.views),
            windows=config.crop.windows,
            dtype=config.dtype,
            spec=self.specs[name],
            whole=self.teachers[name].spec,
            classes=self.teachers[name].classes,
        )
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        say(f"{self.run.path / name}: {manifest.pairs} pairs x {manifest.windows} windows, {size:.1f} MB")
        return {
            "pairs": manifest.pairs,
            "windows": manifest.windows,
            "unreadable": manifest.unreadable,
            "megabytes": round(size, 2),
            "digest": manifest.digest,
        }

    def _batches(self, number: int) -> list[range]:
        windows = self.config.crop.windows or 1
        return batches_of(self.shards, number, max(1, self.config.batch_size // windows))

    def _load(self, numbers: list[int]) -> Iterator[Crops]:
        crop = self.config.crop
        batches = [batch for number in numbers for batch in self._batches(number)]
        extract = Extract(
            self.shards, self.views, Crop(**asdict(crop)), self.config.seed, batches,
            skip_unreadable=self.config.on_error == "skip",
        )  # fmt: skip
        return crop_batches(extract, workers=self.config.workers, pin_memory=self.state.device.type == "cuda")

    def _bar(self, numbers: list[int]) -> Any:
        total = sum(self.shards.manifest.shards[number].pairs for number in numbers)
        return progress_bar(total=total, unit=" pairs", desc=self.run.path.name)


def clean(config: Config, run: RunFolder) -> None:
    """Removes files that only an interrupted run needs."""
    if distributed.is_main():
        for name in config.teachers:
            remove_marks(run.path / name)
