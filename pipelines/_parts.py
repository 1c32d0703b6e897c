"""What a transfer's config names: opened, built with new weights, and checked against one another."""

from dataclasses import dataclass

from crossmodal.data.features import FeatureShards
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.modules.transfer import Transfer
from pipelines import _build as build
from pipelines import transfer
from pipelines._build import AnyTeacher
from pipelines._freshness import open_features
from pipelines._training import seed_everything


@dataclass(frozen=True)
class Parts:
    """All that a transfer is made of."""

    shards: Shards  # without the pairs that are held out
    views: dict[str, View]
    kept: dict[str, FeatureShards]  # of the teachers that do not run
    teachers: dict[str, AnyTeacher]
    classes: list[str]  # of the student's logits
    preparation: Transfer | None  # what is trained before, for objectives that want it
    module: Transfer


def build_parts(config: transfer.Config) -> Parts:
    """The parts of a transfer; seeds torch's global generators.

    Raises:
        ConfigError: they cannot be made, or do not go together.
    """
    shards, _ = build.open_parts(config.data, config.held_out, "data")
    views = build.open_views(
        shards, config.views, build.networks_of(config.teachers, config.student),
        repeating={teacher.view for teacher in config.teachers.values()},
    )  # fmt: skip
    kept = open_features(config, config.train, shards, views)
    teachers = build.build_any_teachers(config.teachers, views, kept, chunk=config.train.chunk)
    seed_everything(config.seed, "weights")
    classes = build.student_classes(config.objectives, shards.manifest.classes, teachers)
    student = build.build_student(config.student, views, len(classes))
    terms = build.build_terms(config.objectives, student.spec, teachers, shards.manifest, chunk=config.train.chunk)
    build.check_alignment(terms, config.student.view, teachers, views)
    preparation, module = build.build_phases(student, config.student.view, terms, chunk=config.train.chunk)
    if preparation is not None:
        open_features(config, config.prepare.over(config.train), shards, views)  # refused if of too few windows for it
    return Parts(shards, views, kept, teachers, classes, preparation, module)
