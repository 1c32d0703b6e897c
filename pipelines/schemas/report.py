"""The config of `crossmodal report`."""

from dataclasses import dataclass
from typing import Literal

from pipelines.config import FieldError, runtime_only


@dataclass(frozen=True)
class Config:
    """What `crossmodal report` reads."""

    runs: list[str]  # folders of finished runs, in the order in which they are shown
    title: str = "Cross-modal transfer"  # heading of the page
    map: Literal["tsne", "pca"] = "tsne"  # how embeddings are laid out in the plane
    output: str = runtime_only("runs/report")  # folder; the page is report.html in it

    def __post_init__(self) -> None:
        if not self.runs:
            raise FieldError("runs", "must name at least one finished run")
