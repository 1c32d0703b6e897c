"""Vision towers of OpenCLIP (Ilharco et al. 2021, https://github.com/mlfoundations/open_clip), by their config."""

from types import SimpleNamespace
from typing import Any

from jaxtyping import Float
from open_clip.model import CLIPVisionCfg, _build_vision_tower, resize_pos_embed
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import finish, read_channels, refuse_cut_edges, set_channels

SMALL = {"embed_dim": 192, "vision_cfg": {"layers": 6, "width": 192, "head_width": 64, "patch_size": 16}}


class OpenClip(Encoder):
    """The vision tower of a CLIP model; a map per layer or stage, without class tokens.

    The embedding is the picture's vector in the space that the model shares with texts, not of unit length. Position
    embeddings of another size are resized as by OpenCLIP. A classifier is new.

    Raises:
        ValueError: `config` describes no vision tower, or the tower does not take pictures of this shape.
    """

    trunk: Any
    classifier = "classifier."
    leaves = False

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        config: dict[str, Any] | None = None,  # model_cfg of an open_clip_config.json; null: a small ViT
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        self.config = SMALL if config is None else config
        self.has_logits = False
        try:
            self.trunk = _build(self.config, (shape[1], shape[2]))
            self.stem = set_channels(self.trunk, channels)
            refuse_cut_edges(self.trunk, shape)
            self.spec = finish(self, shape)
        except (RuntimeError, AssertionError, TypeError, KeyError) as error:  # towers raise various errors
            raise ValueError(f"this tower of open_clip does not take pictures of shape {shape}: {error}") from error
        if classes:
            self.trunk.classifier = nn.Linear(self.spec.dim, classes)
            self.has_logits = True
            self.spec = finish(self, shape)

    def convert(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors with position embeddings of the tower's size; unchanged if they cannot be resized."""
        if isinstance(self.trunk, TimmModel):
            return self._convert_timm(table)
        state = {f"visual.{name}": tensor for name, tensor in table.items()}
        try:
            resize_pos_embed(state, SimpleNamespace(visual=self.trunk))
        except RuntimeError:  # the embeddings are not those of a square
            return table
        return {name.removeprefix("visual."): tensor for name, tensor in state.items()}

    def _convert_timm(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loads the tensors at the size that they were made for, and resizes the network."""
        tower = _build(self.config, None)
        try:
            tower.load_state_dict({name: tensor for name, tensor in table.items() if name in tower.state_dict()})
            tower.set_input_size(self.trunk.image_size)
        except (RuntimeError, AssertionError, TypeError):
            return table
        return dict(tower.state_dict())

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps, the picture's vector, and logits if there are classes."""
        output = self.trunk.forward_intermediates(batch)
        embedding = output["image_features"]
        logits = self.trunk.classifier(embedding) if self.has_logits else None
        return Features(embedding, tuple(output["image_intermediates"]), logits)


def _build(config: dict[str, Any], sides: tuple[int, int] | None) -> Any:
    """A tower with new weights for pictures of some height and width; None: those of the config."""
    known = CLIPVisionCfg.__dataclass_fields__
    vision = {name: value for name, value in config["vision_cfg"].items() if name in known}
    vision["timm_model_pretrained"] = False  # it would be downloaded
    by_timm = vision.get("timm_model_name") is not None
    if sides is not None and not by_timm:
        vision["image_size"] = sides[0] if sides[0] == sides[1] else sides
    tower = _build_vision_tower(config["embed_dim"], vision, quick_gelu=bool(config.get("quick_gelu", False)))
    if sides is not None and by_timm and tower.image_size != sides:
        tower.set_input_size(sides)
    return tower
