"""The options of negatives in a config; needs no torch."""

from dataclasses import dataclass, field, fields
from typing import Literal

KEEPS: dict[str | None, tuple[str, ...]] = {  # options of each source besides `apart`
    "batch": (),
    "gathered": (),
    "queue": ("count", "dtype"),
    "bank": ("count", "draw", "momentum", "dtype", "place"),
}
HALF_STEPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # largest relative change of a number that rounding can undo
NEAR = 0.05  # how near, relative to its length, a row must come to the embedding that it follows


@dataclass(frozen=True)
class Negatives:
    """The source of an anchor's negatives.

    Raises:
        ValueError: an option is out of range, or does not apply to the chosen source.
    """

    source: Literal["batch", "gathered", "queue", "bank"] | None = field(  # null: the objective's default
        default=None, metadata={"short": True}
    )
    count: int = 16384  # bank: negatives drawn per pair, step and direction; queue: its size
    draw: Literal["shared", "sample", "all"] = "shared"  # bank: one draw per batch, one per pair, or all rows
    apart: Literal["pair", "label", "group"] = "pair"  # a negative must differ from the anchor in this
    momentum: float = 0.5  # bank: share of a row that is kept when it is updated
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # storage of a bank or queue
    # bank: host memory is larger, and drawn rows are copied to the device; sharded: each rank's device has its part of
    # the rows, and drawn rows are exchanged
    place: Literal["device", "host", "sharded"] = "device"

    def __post_init__(self) -> None:
        taken = ("source", "apart", *KEEPS.get(self.source, [item.name for item in fields(self)]))
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in taken and value != item.default:
                raise ValueError(f"negatives of source {self.source} have no {item.name}, got {value}; leave it out")
        if self.count < 1 or not 0 <= self.momentum < 1:
            expected = "count must be at least 1 and momentum from 0 to below 1"
            raise ValueError(f"{expected}, got {self.count} and {self.momentum}")
        lost = HALF_STEPS.get(self.dtype, 0.0) / (1 - self.momentum)
        if self.source in ("bank", None) and lost > NEAR:
            raise ValueError(
                f"rows in {self.dtype} stop {lost:.0%} short of their embeddings at momentum {self.momentum}, because "
                "rounding undoes smaller steps; use float32, or less momentum"
            )
        if self.place == "host" and self.draw != "shared":
            raise ValueError(
                f"a bank in host memory needs draw: shared, because other draws copy too many rows, got {self.draw}"
            )
        if self.place == "sharded" and self.draw == "all":
            raise ValueError("a sharded bank needs draw: shared or sample, because no rank holds all rows, got all")
