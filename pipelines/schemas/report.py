"""The config of `crossmodal report`."""

from dataclasses import dataclass
from typing import Literal

from pipelines.config import FieldError, runtime_only


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal report`."""

    runs: list[str]  # folders of finished runs, in the order of the page
    title: str = "Cross-modal transfer"  # title of the page
    map: Literal["tsne", "pca"] = "tsne"  # projection of the embeddings to 2D
    output: str = runtime_only("runs/report")  # folder of report.html

    def __post_init__(self) -> None:
        if not self.runs:
            raise FieldError("runs", "must name at least one finished run")
