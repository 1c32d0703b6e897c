"""Vision networks of transformers (Wolf et al. 2020, https://github.com/huggingface/transformers), by their config."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils import logging

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import finish, first_convolution, read_channels, refuse_cut_edges

SMALL = {"model_type": "vit", "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3,
         "intermediate_size": 768}  # fmt: skip


class Transformers(Encoder):
    """A vision network of transformers, or the vision tower of a larger one; a map per layer or stage.

    The embedding is the network's pooled output; of a ViT or DeiT the normalised class token, because many files lack
    the pooling layer. Maps are of the places only, without class and register tokens. Position embeddings of another
    size are resized by the network. A classifier is new: published ones are not read.

    Raises:
        LookupError: transformers has no networks of this `model_type`.
        ValueError: the network does not take pictures of this shape, or `config` does not describe one.
    """

    trunk: Any  # networks of transformers have common functions, but no common class
    classifier = "classifier."
    leaves = False

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        config: dict[str, Any] | None = None,  # content of a config.json, with model_type; null: a small ViT
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        self.config = _read(SMALL if config is None else config)
        self.trunk = self._build(channels)
        self.places = _patches(self.config, shape)
        accepts = inspect.signature(self.trunk.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepts else {}
        self.has_logits = False
        refuse_cut_edges(self.trunk, shape)
        self.stem = f"{first_convolution(self.trunk)[0]}.weight"
        try:
            self.spec = finish(self, shape)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # networks raise various errors
            raise ValueError(f"a {self.config.model_type} does not take pictures of shape {shape}: {error}") from error
        if classes:
            self.trunk.classifier = nn.Linear(self.spec.dim, classes)
            self.has_logits = True
            self.spec = finish(self, shape)

    def convert(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by today's names, as transformers reads files of earlier versions and of larger networks."""
        try:
            with _quiet():
                network, told = type(self.trunk).from_pretrained(
                    None, config=_with_channels(self.config, 3), state_dict=table, output_loading_info=True
                )
        except Exception:  # whatever an unknown table leads to; the caller says what does not fit
            return table
        _drop_unused(network)
        lacking = {*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])}
        read = {name: tensor for name, tensor in network.state_dict().items() if name not in lacking}
        return read if len(lacking) < len(network.state_dict()) else table

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps, the pooled output, and logits if there are classes."""
        output = self.trunk(pixel_values=batch, output_hidden_states=True, **self.options)
        pooled = getattr(output, "pooler_output", None)
        last = output.last_hidden_state
        if pooled is None:
            pooled = last[:, 0] if last.ndim == 3 else last.mean(dim=(2, 3))
        states = getattr(output, "reshaped_hidden_states", None) or output.hidden_states or ()
        embedding = pooled.flatten(1)
        logits = self.trunk.classifier(embedding) if self.has_logits else None
        return Features(embedding, tuple(self._map(state) for state in states[1:]), logits)

    def _map(self, state: Tensor) -> Float[Tensor, "batch _ _ _"]:
        """The places of a layer's output; tokens before them are of classes and registers."""
        if state.ndim == 4:
            return state
        down, across = self.places
        return state[:, state.shape[1] - down * across :].transpose(1, 2).unflatten(2, (down, across))

    def _build(self, channels: int) -> Any:
        try:
            network = transformers.AutoModel.from_config(_with_channels(self.config, channels))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"config describes no vision network that transformers can build: {error}") from error
        if getattr(network, "main_input_name", "") != "pixel_values":
            raise ValueError(f"config must describe a vision network, got a {self.config.model_type}")
        _drop_unused(network)
        return network


def _read(config: dict[str, Any]) -> Any:
    """The config of a network, or of the vision tower in it."""
    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise LookupError(f"transformers {transformers.__version__} has no model_type {kind!r}")
    options = {name: value for name, value in config.items() if name != "model_type"}
    read = transformers.AutoConfig.for_model(kind, **options)
    return getattr(read, "vision_config", read)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar and the table of transformers; `load_pretrained` says what does not fit."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _with_channels(config: Any, channels: int) -> Any:
    copy = type(config)(**config.to_dict())
    copy.num_channels = channels
    return copy


def _drop_unused(network: Any) -> None:
    """Drops weights without a part in the features, which would get no gradient: mask tokens, and ViT's pooler."""
    if hasattr(getattr(network, "pooler", None), "dense"):
        network.pooler = None
    for module in network.modules():
        if isinstance(getattr(module, "mask_token", None), nn.Parameter):
            module.mask_token = None


def _patches(config: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Places down and across in the tokens of a transformer; without patches it has no tokens."""
    patch = getattr(config, "patch_size", 1)
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return shape[1] // down, shape[2] // across
