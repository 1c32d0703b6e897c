"""Any network of timm (Wightman 2019, https://github.com/huggingface/pytorch-image-models), by its timm name."""

from typing import Any, ClassVar

import timm
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, Published, stay
from crossmodal.encoders.common.picture import finish, read_channels, refuse_cut_edges
from modalities.common.catalogue import suggest

MODEL = "vit_tiny_patch16_224"


class Timm(Encoder):
    """Any network of timm, by name; one map per stage or block if timm has them; a pooled embedding.

    The embedding is the classifier's input. `stem` and `preactivations` are not available, because timm has no common
    name for them. Nothing is downloaded. Weights that do not fit are converted by timm, as position embeddings for
    another picture size. `published` has the input that they were trained with.

    Raises:
        LookupError: timm has no such model.
        ValueError: the model does not accept pictures of this shape, its patches do not divide them, or there are
            classes and its classifier is not one linear layer on one embedding.
    """

    trunk: Any  # timm's models have common functions, but no common class
    leaves = False
    added: ClassVar[tuple[str, ...]] = ("arguments",)

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        model: str = MODEL,  # name of the model; timm.list_models() lists all
        arguments: dict[str, Any] | None = None,  # more for timm.create_model, as model_args in a config.json
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        if not timm.is_model(model):
            near = suggest(model, timm.list_models()).partition(" (")[0]
            raise LookupError(f"timm has no model {model!r}{near}; timm.list_models() lists all")
        card = timm.get_pretrained_cfg(model)
        sized = {"img_size": shape[1:]} if card is not None and card.fixed_input_size else {}
        self.arguments = {"model_name": model, **sized, **(arguments or {})}
        try:
            self.trunk = timm.create_model(**self.arguments, in_chans=channels, num_classes=classes)
            if classes and not _ends_in_one_layer(self.trunk):
                raise ValueError(f"timm's {model} does not end in one linear layer; it can be used without classes")
            self.gives_maps = callable(getattr(self.trunk, "forward_intermediates", None))
            self.has_logits = classes > 0
            refuse_cut_edges(self.trunk, shape)
            self.spec = finish(self, shape)
        except (RuntimeError, AssertionError, TypeError, IndexError) as error:  # models raise various errors
            fitting = "" if card is None else f"; {' x '.join(map(str, card.input_size[1:]))} fits"
            raise ValueError(f"timm's {model} does not take pictures of shape {shape}: {error}{fitting}") from error
        # of a model with several first or last layers this names no weight, and `load_pretrained` raises an error
        self.stem = f"{self.trunk.pretrained_cfg['first_conv']}.weight"
        self.classifier = f"{self.trunk.pretrained_cfg['classifier']}."

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """The values in timm's ``pretrained_cfg``, for the weights of the tag in the model's name."""
        card = timm.get_pretrained_cfg(options.get("model", MODEL), allow_unregistered=True)
        if card is None or len(card.mean) != 3 or len(card.std) != 3:
            return None
        return Published(tuple(card.mean), tuple(card.std), card.input_size[-1], card.interpolation, card.crop_pct)

    def convert(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """Timm's own conversion; unchanged if timm cannot read the tensors either."""
        rows = table.get(f"{self.classifier}weight")
        first = table.get(self.stem)
        card = {"state_dict": table, "num_classes": 0 if rows is None else len(rows), "label_offset": None}
        channels = 3 if first is None else first.shape[1]
        try:
            network = timm.create_model(
                **self.arguments, in_chans=channels, num_classes=card["num_classes"], pretrained=True,
                pretrained_cfg_overlay={**card, "input_size": (channels, 224, 224), "custom_load": False},
            )  # fmt: skip
        except Exception:  # its filters raise whatever an unknown table leads to; the caller says what does not fit
            return table
        return dict(network.state_dict())

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps, the pooled features, and logits if there are classes."""
        if self.gives_maps:
            final, maps = self.trunk.forward_intermediates(batch)
        else:
            final, maps = self.trunk.forward_features(batch), []
        embedding = self.trunk.forward_head(final, pre_logits=True)
        return Features(embedding, tuple(maps), self.trunk.get_classifier()(embedding) if self.has_logits else None)


def _ends_in_one_layer(trunk: Any) -> bool:
    """True if the classifier on the embedding computes timm's logits; false with two heads, or convolutions.

    Among one model from each family of timm 1.0.31, 75 pass, and all of these agree with timm's forward. VOLO, which
    adds the logits of a second head, would not agree and is refused.
    """
    return isinstance(trunk.pretrained_cfg["classifier"], str) and isinstance(trunk.get_classifier(), nn.Linear)
