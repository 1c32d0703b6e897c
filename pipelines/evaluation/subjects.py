"""Who takes part in an evaluation: students, their teacher if they had one, and the pairs they are judged by."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from crossmodal import models
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.models import Model
from pipelines.building.data import leave_out, networks_of, open_views
from pipelines.building.teachers import Teacher, build_teachers
from pipelines.config import ConfigError, at
from pipelines.evaluation.students import open_data, taught
from pipelines.runs.lineage import count_copies
from pipelines.schemas import transfer
from pipelines.schemas.evaluate import Config


@dataclass(frozen=True)
class Subjects:
    """Opened and built when first asked for, and checked against one another.

    Raises:
        ConfigError: something does not go together.
    """

    config: Config

    @cached_property
    def parts(self) -> tuple[Shards, Shards]:
        """The training pairs and the test pairs that have what the students and their teacher see."""
        read = [self.first.card.modality]
        if self.taught is not None:
            name, config = self.taught
            read.append(config.views[config.teachers[name].view].modality)
        train, test = open_data(self.config.data)
        keys = ("data.held_out", "data.held_out") if self.config.data.test is None else ("data.train", "data.test")
        return leave_out(train, read, keys[0]), leave_out(test, read, keys[1])

    @property
    def train(self) -> Shards:
        """The pairs that probes and neighbours learn from."""
        return self.parts[0]

    @property
    def test(self) -> Shards:
        """The pairs that figures are of."""
        return self.parts[1]

    @cached_property
    def copies(self) -> tuple[int, list[str]]:
        """How many pairs to judge by are among those learnt from, where these are other folders; see `count_copies`."""
        if self.config.data.test is None:
            return 0, []
        folders = [folder for folders in self.config.students.values() for folder in folders]
        return count_copies(self.test, self.train, folders, "data.test")

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.train.manifest.classes

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """The classes of the training pairs and of the test pairs."""
        return self.train.labels(), self.test.labels()

    @cached_property
    def students(self) -> dict[str, list[Model]]:
        """The exported students by name, one for each seed."""
        with at("students"):
            found = {name: [models.load_model(path) for path in paths] for name, paths in self.config.students.items()}
        cards = [
            replace(model.card, classes=[], heads={}, temperature=None, weights="")
            for trainings in found.values()
            for model in trainings
        ]
        if any(card != cards[0] for card in cards):
            raise ConfigError(["students must share encoder and view, so that scratch and random are the same for all"])
        return found

    @property
    def first(self) -> Model:
        """A student, for its architecture and view."""
        return next(iter(self.students.values()))[0]

    @cached_property
    def view(self) -> View:
        """The students', on both parts, whose manifests must describe the bytes as the students learnt to read them."""
        card = self.first.card
        with at("data"):
            views = [open_view(part, card.modality, **card.modality_options) for part in (self.train, self.test)]
        return views[0]

    @cached_property
    def taught(self) -> tuple[str, transfer.Config] | None:
        """The teacher's name, and the config of the first transfer by which it taught; None where there was none."""
        folders = [folder for folders in self.config.students.values() for folder in folders]
        return next((found for folder in folders if (found := taught(self.config, folder))), None)

    @cached_property
    def teacher_view(self) -> View:
        """The teacher's, likewise on both parts."""
        assert self.taught is not None
        name, config = self.taught
        seen = config.teachers[name].view
        networks = networks_of(config.teachers, config.student)
        with at("data"):
            views = [open_views(part, {seen: config.views[seen]}, networks)[seen] for part in (self.train, self.test)]
        return views[0]

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher of the students, or None."""
        if self.taught is None:
            return None
        name, config = self.taught
        chosen = config.teachers[name]
        return build_teachers({name: chosen}, {chosen.view: self.teacher_view})[name]
