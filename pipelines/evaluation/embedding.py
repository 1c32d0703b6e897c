"""What networks give of the pairs: every process embeds its share, and all get the whole."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from crossmodal.data.reader import SampleBatch, sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.encoders import Encoder, Features
from crossmodal.evaluation import Network
from crossmodal.models import Model
from pipelines.evaluation.decoded import HELD
from pipelines.evaluation.subjects import Subjects
from pipelines.runs import distributed

BATCH = 256  # pairs at a time


@dataclass(frozen=True)
class Embeddings(Subjects):
    """Encoders and their features. Every process must ask for the features of the same networks in the same order."""

    # what a view gives of small data sets, or of this process's share of them
    held: dict[tuple[str, bool, range], list[SampleBatch]] = field(default_factory=dict, kw_only=True)
    seen: dict[int, Network] = field(default_factory=dict, kw_only=True)  # of students, by the id of their encoder

    @cached_property
    def device(self) -> torch.device:
        """The GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def new(self, seed: int, classes: int) -> Encoder:
        """The students' encoder at new weights."""
        torch.manual_seed(seed)
        return self.first.card.build(classes).eval()

    def see(self, model: Model) -> Network:
        """A student's features, computed once as long as `HELD` numbers hold all of them."""
        key = id(model.encoder)
        if key in self.seen:
            return self.seen[key]
        found = self.embed(model.encoder, self.view)
        kept = [part.embedding.numel() for seen in (found, *self.seen.values()) for part in (seen.train, seen.test)]
        if sum(kept) <= HELD:
            self.seen[key] = found
        return found

    def embed(self, encoder: Encoder, view: View, *, alone: bool = False) -> Network:
        """A network with its features of both parts; `alone`: see `features`."""
        train, test = (self.features(encoder, view, shards, alone=alone) for shards in (self.train, self.test))
        return Network(encoder, view, train, test)

    def features(self, encoder: Encoder, view: View, shards: Shards, *, alone: bool = False) -> Features:
        """Embeddings and logits of every pair in order, on the CPU.

        Args:
            encoder: in evaluation mode.
            view: the encoder's.
            shards: the pairs.
            alone: this process embeds all pairs, and no other takes part.

        Raises:
            ShardError: a pair cannot be read.
            SharedError: another process cannot read one.
        """
        if alone or distributed.count() == 1:
            embedding, logits = self._swept(encoder, view, shards, range(len(shards)))
            return Features(embedding, (), logits)
        own = distributed.share(len(shards), BATCH)
        embedding, logits = distributed.together(lambda: self._swept(encoder, view, shards, own))
        has_logits = any(distributed.gather(logits is not None))
        joined = distributed.join_rows(embedding.new_empty(0, 0) if logits is None else logits) if has_logits else None
        return Features(distributed.join_rows(embedding), (), joined)

    @torch.inference_mode()
    def _swept(self, encoder: Encoder, view: View, shards: Shards, own: range) -> tuple[Tensor, Tensor | None]:
        encoder.to(self.device)
        embeddings, logits = [torch.empty(0, encoder.spec.dim)], []
        for part in self.batches(view, shards, own):
            features = encoder(to_batch(part, {"view": view}, self.device).inputs["view"])
            embeddings.append(features.embedding.float().cpu())
            if features.logits is not None:
                logits.append(features.logits.float().cpu())
        return torch.cat(embeddings), torch.cat(logits) if logits else None

    def batches(self, view: View, shards: Shards, own: range) -> Iterable[SampleBatch]:
        """Consecutive pairs in order; those of small data sets are decoded once."""
        key = (repr(view), shards is self.test, own)
        if key not in self.held:
            found = sweep_parts(
                shards, {"view": view}, batch_size=BATCH, workers=self.config.workers,
                indices=None if len(own) == len(shards) else [*own],
            )  # fmt: skip
            if len(own) * math.prod(view.modality.shape) > HELD:
                return found
            self.held[key] = list(found)
        return self.held[key]
