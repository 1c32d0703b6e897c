"""The interface of a modality: bytes <-> physical units <-> what an encoder sees."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.synthetic.scene import Scene


class DecodeError(ValueError):
    """Bytes that are not what the modality stores; whoever knows shard, key and field adds them."""


@dataclass(frozen=True)
class CropBox:
    """One look at a sample, in fractions of its extent, shared by the aligned views.

    Spatial views take the rectangle, with `nothing` where it leaves the sample, and mirror it; streams over time take
    the piece that begins at `start`. Where a picture has another width : height than a view, and the view's `fit` is
    "crop", the fractions are of a region of the picture that has the view's: the largest one, which `down` and `across`
    place.
    """

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    flip: bool = False  # mirrored left to right; stereo sound swaps its channels
    start: float = 0.5  # where a piece of time lies in the slack: 0 at the beginning, 1 at the end
    down: float = 0.5  # where the region that a view shows of a taller picture lies: 0 at the top, 1 at the bottom
    across: float = 0.5  # where the region that a view shows of a wider picture lies: 0 at the left, 1 at the right


class Modality(ABC):
    """One kind of sensor stream. Entries are frozen dataclasses whose fields are the options a config may set.

    A signal is what `decode` returns, in physical units and at its stored size. `adapt` makes it a sample of `shape`,
    still in physical units; `augment` and `normalise` work on batches of these, on any device.
    """

    field: ClassVar[str]  # its member in a sample: "depth" reads "000123.depth.png"
    extensions: ClassVar[tuple[str, ...]]  # what `decode` reads; `encode` writes the first
    plane: ClassVar[str] = "picture"  # what height and width of a sample mean; equal planes can be laid on one another
    fit: str = "stretch"  # whether a crop keeps its width : height ("crop") or is stretched to that of the view
    stored: ClassVar[tuple[str, ...]] = ()  # options that describe the stored bytes; the manifest holds them
    added: ClassVar[
        tuple[str, ...]
    ] = ()  # options of later versions; records hold them only where they are not default
    nothing: ClassVar[float] = 0.0  # a sample's value outside the signal, and where a pair has none
    bits: int | None = None  # 8: a sample's values are multiples of 1 / 255, so they fit into bytes; None: any
    classes: tuple[str, ...] = ()  # names of a signal's values from 0, -1 for none of them; empty: it has a unit

    def recorded(self) -> dict[str, Any]:
        """Its options for records; without those of `added` that have their default, as earlier versions wrote them."""
        own = {item.name: item.default for item in fields(self)}  # type: ignore[arg-type]  # every entry is a dataclass
        options = asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in options.items() if name not in self.added or value != own[name]}

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one adapted sample, channels first."""

    @abstractmethod
    def decode(self, payload: bytes) -> Float[Tensor, "..."]:
        """The signal in physical units, channels first.

        Raises:
            DecodeError: the bytes are not a readable signal of this modality.
        """

    @abstractmethod
    def encode(self, signal: Float[Tensor, "..."]) -> bytes:
        """The inverse of `decode`, up to quantisation."""

    @abstractmethod
    def adapt(self, signal: Float[Tensor, "..."], window: CropBox) -> Float[Tensor, "..."]:
        """One look at the signal, of `shape`, in physical units."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Float[Tensor, " draws"]:
        """This sample's augmentation as a fixed number of random numbers, read by `augment`."""

    @abstractmethod
    def augment(
        self, batch: Float[Tensor, "batch *shape"], draws: Float[Tensor, "batch draws"]
    ) -> Float[Tensor, "batch *shape"]:
        """The batch as this sensor might also have seen it; row i depends on row i of `draws` alone."""

    @abstractmethod
    def normalise(self, batch: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """The encoder's input; an exported model contains this step."""

    def doubts(self, signal: Float[Tensor, "..."]) -> str:
        """Why a signal can hardly be in this modality's unit; empty if it can."""
        return ""

    def refuse_unseen(self, statistics: Mapping[str, float]) -> None:  # noqa: B027  # most modalities show all
        """Refuses signals of which an encoder would see hardly anything, by the statistics of their field in shards.

        Raises:
            ValueError: these are such; the message says what to do.
        """

    def show_all(self, statistics: Mapping[str, float]) -> "Modality":
        """This modality, or a copy whose range has all signals of these statistics, for pictures of stored signals."""
        return self

    @abstractmethod
    def picture(self, adapted: Float[Tensor, "..."]) -> Float[Tensor, "3 height width"]:
        """An adapted sample as a picture for people, in [0, 1]."""

    @abstractmethod
    def render(self, scene: Scene) -> Float[Tensor, "..."]:
        """The signal this sensor would give of a synthetic scene."""
