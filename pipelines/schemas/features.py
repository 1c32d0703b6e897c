"""The config of `crossmodal features`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas.common import NAME, CacheConfig, CropConfig, TeacherConfig, ViewConfig, check_places, check_views


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal features`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    data: str  # folder of paired shards, or its URL in a store, such as s3://bucket/pairs/train
    views: dict[str, ViewConfig]  # inputs by name, as in the transfer; every teacher names one
    teachers: dict[str, TeacherConfig]  # frozen encoders by name, as in the transfer
    crop: CropConfig = field(default_factory=CropConfig)  # train.crop of the transfer; windows is required
    maps: bool = False  # also store all feature maps and the input of the first stage: often 100 times the space
    # maps: only these maps of each teacher, from 0, without the stem; objectives then count the stored maps; null: all
    stages: list[int] | None = None
    preactivations: bool = False  # also store the maps before their last non-linearity
    dtype: Literal["float16", "float32"] = "float16"  # precision of the stored numbers
    on_error: Literal["stop", "skip"] = "stop"  # unreadable pairs; skip: store no features, and report each
    seed: int = 0  # seed of crops and augmentation, as in the transfer
    batch_size: int = number(256, least=1, runtime_only=True)  # crops per forward pass
    workers: int = number(2, least=0, runtime_only=True)  # data-loading processes per rank
    cache: CacheConfig | None = runtime_only(None)  # local copies of shards in a store; null: none; see docs/scale.md
    output: str = runtime_only("runs/features")  # folder of the run; each teacher has the subfolder of its name

    def __post_init__(self) -> None:
        check_places(data=self.data)
        check_views(self.views, {f"teachers.{name}.view": teacher.view for name, teacher in self.teachers.items()})
        if not self.teachers:
            raise FieldError("teachers", "must name at least one teacher")
        for name, teacher in self.teachers.items():
            if not NAME.fullmatch(name):
                raise FieldError(f"teachers.{name}", "needs another name: use letters, digits, _ and -")
            if teacher.features is not None:
                raise FieldError(f"teachers.{name}.features", "must be null: this pipeline computes the features")
        if self.crop.windows is None:
            raise FieldError("crop.windows", "must be given: the number of crops per pair to cache")
        if self.preactivations and not self.maps:
            raise FieldError("preactivations", "needs maps: true")
        if self.stages is not None and (not self.maps or not self.stages or len({*self.stages}) < len(self.stages)):
            raise FieldError("stages", f"must be one or more different maps, with maps: true, got {self.stages}")
