"""The catalogue of encoders: each file is one family of networks."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.encoders._base import IMAGENET as IMAGENET
    from crossmodal.encoders._base import Encoder as Encoder
    from crossmodal.encoders._base import Features as Features
    from crossmodal.encoders._base import Leave as Leave
    from crossmodal.encoders._base import Published as Published
    from crossmodal.encoders._base import Spec as Spec
    from crossmodal.encoders._base import cat_features as cat_features
    from crossmodal.encoders._base import stay as stay

__getattr__ = lazily(
    __name__, _base=("IMAGENET", "Encoder", "Features", "Leave", "Published", "Spec", "cat_features", "stay")
)
