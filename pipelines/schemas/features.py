"""The config of `crossmodal features`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas.common import NAME, CropConfig, TeacherConfig, ViewConfig, check_views


@dataclass(frozen=True)
class Config:
    """What `crossmodal features` reads."""

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    data: str  # folder of paired shards
    views: dict[str, ViewConfig]  # named uses of modalities, as in the transfer; each teacher names one
    teachers: dict[str, TeacherConfig]  # frozen networks by name, as in the transfer
    crop: CropConfig = field(default_factory=CropConfig)  # the transfer's train.crop; windows: how many are kept a pair
    maps: bool = False  # keep also the map of every stage, and what enters the first: often a hundred times the space
    preactivations: bool = False  # keep also the maps before their last non-linearity
    dtype: Literal["float16", "float32"] = "float16"  # of the numbers that are kept
    on_error: Literal["stop", "skip"] = "stop"  # an unreadable pair; skip: named, counted, and without features
    seed: int = 0  # of windows and augmentation, as in the transfer
    batch_size: int = number(256, least=1, runtime_only=True)  # looks a forward pass
    workers: int = number(2, least=0, runtime_only=True)  # processes a rank that read and decode
    output: str = runtime_only(
        "runs/features"
    )  # the run's folder; a teacher's features lie in it under the teacher's name

    def __post_init__(self) -> None:
        check_views(self.views, {f"teachers.{name}.view": teacher.view for name, teacher in self.teachers.items()})
        if not self.teachers:
            raise FieldError("teachers", "must name at least one teacher")
        for name, teacher in self.teachers.items():
            if not NAME.fullmatch(name):
                raise FieldError(f"teachers.{name}", "needs another name: a folder's, of letters, digits, _ and -")
            if teacher.features is not None:
                raise FieldError(f"teachers.{name}.features", "must be null: they are what is made here")
        if self.crop.windows is None:
            raise FieldError("crop.windows", "must be given: how many windows of each pair to keep")
        if self.preactivations and not self.maps:
            raise FieldError("preactivations", "must be false, or maps true")
