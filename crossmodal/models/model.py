"""A trained encoder in use: vectors, maps and classes of files, shards and arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.inputs import InputError, find_inputs
from crossmodal.data.samples import SampleError, load_samples
from crossmodal.encoders import Encoder, Features
from crossmodal.models.card import Card, ExportError
from crossmodal.models.hub import PREFIX, is_on_hub
from crossmodal.objectives import Objective
from modalities import CropBox, Modality
from modalities.common.numbers import MapView
from modalities.common.picture import PictureView

UNITS = (
    "floats in the modality's unit, such as metres or samples from -1 to 1, or a picture as uint8 [rows, columns, 3]"
)
Signals = str | Path | np.ndarray | Tensor | Sequence[str | Path | np.ndarray | Tensor]  # what a model reads


@dataclass(frozen=True)
class Model:
    """A loaded exported encoder."""

    card: Card
    encoder: Encoder
    modality: Modality
    heads: dict[str, Objective]
    folder: Path | None = None  # that it was loaded from

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: str | torch.device | None = None
    ) -> "Model":
        """A model from a folder, or else from the hub by "OWNER/NAME"; see `crossmodal.load`."""
        import crossmodal

        local = Path(name).exists()
        if local and revision is not None:
            raise ExportError(f"{name} is a folder, which has no revisions; leave out revision={revision!r}")
        address = name if local or is_on_hub(name) else f"{PREFIX}{name}"
        return crossmodal.load(f"{address}@{revision}" if revision else address, device=device)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Writes the model and its README; see `crossmodal.save`."""
        import crossmodal

        return crossmodal.save(self, folder, **options)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Uploads the model to the Hugging Face Hub; see `crossmodal.push`."""
        import crossmodal

        return crossmodal.push(self, repository, **options)

    def embed(self, what: Signals, *, batch_size: int = 64, workers: int = 0) -> Float[Tensor, "samples dim"]:
        """The embeddings of samples, in order, on the CPU.

        Args:
            what: a path or several: files, folders of files, globs, folders of shards; or an array or several: signals
                in the modality's unit, as for depth metres [height, width] with 0 for no reading, for rgb uint8
                [height, width, 3] or numbers from 0 to 1 [3, height, width], and for audio samples from -1 to 1
                [channels, samples] or [samples]. Of maps, a number that is not finite is no reading.
            batch_size: number of samples that the encoder sees at a time.
            workers: processes that read files.

        Raises:
            InputError: a path names nothing, or an array has another shape or numbers that are not finite.
            SampleError: a file or pair cannot be read; the message names it.
            ShardError: a folder of shards cannot be opened.
        """
        return torch.cat([features.embedding.float().cpu() for features in self._features(what, batch_size, workers)])

    def maps(self, what: Signals, *, batch_size: int = 64, workers: int = 0) -> list[Float[Tensor, "samples _ _ _"]]:
        """The output of each stage for samples, from fine to coarse, on the CPU; see `embed`."""
        stages = zip(*(features.maps for features in self._features(what, batch_size, workers)), strict=True)
        return [torch.cat([part.float().cpu() for part in stage]) for stage in stages]

    def predict(self, what: Signals, *, batch_size: int = 64, workers: int = 0) -> list[tuple[str, float]]:
        """The most probable class of each sample, and its probability; see `embed`.

        Raises:
            ExportError: the model has no classes.
        """
        answers: list[tuple[int, float]] = []
        for batch in self._batches(what, batch_size, workers):
            with torch.inference_mode():
                best = self.probabilities(batch).max(1)
            answers += zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.card.classes[place], share) for place, share in answers]

    def _features(self, what: Signals, batch_size: int, workers: int) -> Iterator[Features]:
        for batch in self._batches(what, batch_size, workers):
            with torch.inference_mode():
                yield self.encoder(self.modality.normalise(batch))

    def _batches(self, what: Signals, batch_size: int, workers: int) -> Iterator[Float[Tensor, "batch *shape"]]:
        """Adapted samples on the encoder's device."""
        device = next(self.encoder.parameters()).device
        if not isinstance(what, str | Path | np.ndarray | Tensor | Sequence):
            raise InputError(f"give paths or arrays, got {type(what).__name__}; numpy.asarray makes arrays of pictures")
        several = [what] if isinstance(what, str | Path | np.ndarray | Tensor) else list(what)
        if not several:
            raise InputError("give at least one path or array")
        if any(isinstance(each, str | Path) for each in several):
            if not all(isinstance(each, str | Path) for each in several):
                raise InputError("give paths or arrays, not both")
            words = [str(each) for each in several]
            inputs = find_inputs(words, self.modality, self.card.modality, self.card.modality_options)
            for samples in inputs.samples:
                for part in load_samples(samples, batch_size=batch_size, workers=workers):
                    for name, problem in zip(part.names, part.problems, strict=True):
                        if problem is not None:
                            raise SampleError(f"{name}: {problem}")
                    assert part.adapted is not None
                    yield part.adapted.to(device)
            return
        for start in range(0, len(several), batch_size):
            adapted = [self._adapt(each) for each in several[start : start + batch_size]]
            yield torch.stack(adapted).to(device)

    def _adapt(self, array: Any) -> Float[Tensor, "*shape"]:
        signal = torch.as_tensor(array)
        if self.modality.field == "rgb" and signal.dtype == torch.uint8 and signal.ndim == 3 and signal.shape[2] == 3:
            signal = signal.permute(2, 0, 1) / 255
        elif not signal.is_floating_point():
            raise InputError(f"an array of {str(signal.dtype).removeprefix('torch.')} has no unit; give {UNITS}")
        dims = 3 if isinstance(self.modality, PictureView) else 2
        signal = signal[None] if signal.ndim == dims - 1 else signal
        channels = 1 if isinstance(self.modality, MapView) else 3 if dims == 3 else len(signal)
        if signal.ndim != dims or len(signal) != channels or not signal.numel():
            sides = "height, width]" if dims == 3 else "samples]"
            alone = f" or [{sides}" if channels == 1 or dims == 2 else ""
            raise InputError(
                f"an array of shape {[*np.shape(array)]} is no signal of {self.card.modality}; it must be "
                f"[{channels if dims == 3 else 'channels'}, {sides}{alone}, and several signals a list"
            )
        signal = signal.float()
        if isinstance(self.modality, MapView):
            signal = signal.where(signal.isfinite(), self.modality.nothing)
        elif not signal.isfinite().all():
            raise InputError(f"an array holds NaN or infinity, which {self.card.modality} cannot have")
        if doubt := self.modality.doubts(signal):
            raise InputError(f"{doubt}; is the array in another unit?")
        try:
            return self.modality.adapt(signal, CropBox())
        except Exception as error:  # whatever a wrong shape leads to
            raise InputError(
                f"an array of shape {list(signal.shape)} is no signal of {self.card.modality}: {error}"
            ) from error

    def probabilities(self, batch: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch classes"]:
        """The probability of each class, calibrated where the card has a temperature.

        Args:
            batch: adapted samples in physical units, on the encoder's device.

        Raises:
            ExportError: the model has no classes.
        """
        logits = self.encoder(self.modality.normalise(batch)).logits
        if logits is None:
            raise ExportError("this model has no classes; train a classifier from it with crossmodal supervise")
        return (logits.float() / (self.card.temperature or 1.0)).softmax(1)
