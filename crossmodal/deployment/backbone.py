"""A trained encoder as the backbone of a detector or a segmenter."""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.deployment.graph import DeploymentError
from crossmodal.models import Model


class Backbone(nn.Module):
    """The maps of some stages of a model, from fine to coarse, from pictures in physical units.

    It takes what `Modality.normalise` takes: for depth metres [batch, 1, height, width] with 0 for no reading, for rgb
    numbers from 0 to 1 [batch, 3, height, width]. Convolutional encoders take pictures of any size. `channels` and
    `strides` are as in ``timm.create_model(..., features_only=True).feature_info``. The weights are those of the model,
    and can be trained.

    Args:
        model: of `crossmodal.load`.
        stages: positions of the stages, from 0; None: all.

    Raises:
        DeploymentError: the model has no such stages.
    """

    channels: list[int]  # of each map
    strides: list[int]  # pixels of the input for one of each map

    def __init__(self, model: Model, stages: Sequence[int] | None = None) -> None:
        super().__init__()
        maps, shape = model.encoder.spec.maps, model.card.shape
        self.stages = [*range(len(maps))] if stages is None else [*stages]
        if not self.stages or not {*self.stages} <= {*range(len(maps))}:
            raise DeploymentError(f"stages must be some of 0 to {len(maps) - 1}, got {self.stages}")
        self.modality, self.encoder = model.modality, model.encoder
        self.channels = [maps[stage][0] for stage in self.stages]
        self.strides = [round(shape[1] / maps[stage][1]) for stage in self.stages]

    def forward(self, pictures: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """The maps by the number of their stage, in order."""
        maps = self.encoder(self.modality.normalise(pictures)).maps
        return OrderedDict((str(stage), maps[stage]) for stage in self.stages)
