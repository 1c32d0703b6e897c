"""What a config may say of negatives; needs no torch."""

from dataclasses import dataclass, field, fields
from typing import Literal

KEEPS: dict[str | None, tuple[str, ...]] = {  # what each source takes besides `apart`
    "batch": (),
    "gathered": (),
    "queue": ("count", "dtype"),
    "bank": ("count", "draw", "momentum", "dtype", "place"),
}
HALF_STEPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # of a number, what rounding may undo
NEAR = 0.05  # of a row's length, how near it must come to what it follows


@dataclass(frozen=True)
class Negatives:
    """What a pair is contrasted with besides its own other side.

    Raises:
        ValueError: an option is out of its range, or means nothing for the chosen source.
    """

    source: Literal["batch", "gathered", "queue", "bank"] | None = field(  # null: the objective's own choice
        default=None, metadata={"short": True}
    )
    count: int = 16384  # of a bank: drawn for a pair, a step and a direction; of a queue: embeddings it holds
    draw: Literal["shared", "sample", "all"] = "shared"  # of a bank: for the batch, for each pair; or all rows
    apart: Literal["pair", "label", "group"] = "pair"  # what a negative must not share with the anchor
    momentum: float = 0.5  # of a bank: share of a row that stays when its pair is seen again
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # of a bank's and a queue's rows
    place: Literal["device", "host"] = "device"  # of a bank: host memory is larger, and its rows travel when drawn

    def __post_init__(self) -> None:
        taken = ("source", "apart", *KEEPS.get(self.source, [item.name for item in fields(self)]))
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in taken and value != item.default:
                raise ValueError(f"negatives of source {self.source} have no {item.name}, got {value}; leave it out")
        if self.count < 1 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"count must be at least 1 and momentum from 0 to below 1, got {self.count} and {self.momentum}"
            )
        lost = HALF_STEPS.get(self.dtype, 0.0) / (1 - self.momentum)
        if self.source in ("bank", None) and lost > NEAR:
            raise ValueError(
                f"rows in {self.dtype} stop {lost:.0%} short of what they follow at momentum {self.momentum}, for "
                "rounding undoes smaller steps; take float32, or less momentum"
            )
        if self.place == "host" and self.draw != "shared":
            raise ValueError(
                f"a bank in host memory needs draw: shared, for other rows are too many to travel, got {self.draw}"
            )
