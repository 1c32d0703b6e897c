"""Opens, builds and checks the components of a transfer."""

from dataclasses import dataclass

from crossmodal.data.features import FeatureShards
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.modules.transfer import Transfer
from pipelines.building.cached_features import open_features
from pipelines.building.data import leave_out, networks_of, open_parts, open_views
from pipelines.building.encoders import build_student
from pipelines.building.objectives import build_phases, build_terms, check_alignment, student_classes, views_read
from pipelines.building.teachers import AnyTeacher, build_any_teachers
from pipelines.schemas import transfer
from pipelines.schemas.common import TrainConfig
from pipelines.schemas.recipe import sized
from pipelines.training.loop import seed_everything


@dataclass(frozen=True)
class Components:
    """The data, networks and modules of a transfer."""

    shards: Shards  # without held-out pairs
    views: dict[str, View]
    kept: dict[str, FeatureShards]  # of the teachers that do not run
    teachers: dict[str, AnyTeacher]
    classes: list[str]  # of the student's logits
    preparation: Transfer | None  # trained first, if an objective needs it
    module: Transfer
    train: TrainConfig  # with learning rate and passes


def build_parts(config: transfer.Config) -> Components:
    """The components of a transfer; seeds torch's global generators.

    Raises:
        ConfigError: they cannot be built, or do not fit together.
    """
    shards, _ = open_parts(config.data, config.held_out, "data")
    views = open_views(
        shards, config.views, networks_of(config.teachers, config.student),
        repeating={teacher.view for teacher in config.teachers.values()},
    )  # fmt: skip
    read = {config.student.view, *(teacher.view for teacher in config.teachers.values())}
    read |= views_read(config.objectives) & views.keys()
    shards = leave_out(shards, [config.views[name].modality for name in sorted(read)], "data")
    train = sized(config.train, len(shards), is_new=config.student.weights is None)
    cached = open_features(config, train, shards, views)
    teachers = build_any_teachers(config.teachers, views, cached, chunk=config.train.chunk)
    seed_everything(config.seed, "weights")
    classes = student_classes(config.objectives, shards.manifest.classes, teachers)
    student = build_student(config.student, views, len(classes))
    terms = build_terms(config.objectives, student.spec, teachers, shards.manifest, chunk=config.train.chunk)
    check_alignment(terms, config.student.view, teachers, views)
    preparation, module = build_phases(student, config.student.view, terms, chunk=config.train.chunk)
    if preparation is not None:
        open_features(config, config.prepare.over(train), shards, views)  # refuses too few windows for it
    return Components(shards, views, cached, teachers, classes, preparation, module, train)
