"""Classes of pixels, read off the maps of a network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.evaluation import Evaluation, Pairs
from crossmodal.evaluation.common.dense import Dense, pairs_with
from crossmodal.evaluation.common.pictures import to_legend
from crossmodal.evaluation.common.tasks import Quality, Score, Task, mean_of
from crossmodal.metrics.segmentation import class_accuracy, confusion, iou, mean_iou, pixel_accuracy
from modalities import MODALITIES
from modalities.common.catalogue import suggest

# Of the 40 classes of NYU-Depth v2; the rest are objects, and "otherprop", which is mostly unlabelled, is not judged.
NYU13 = {
    "wall": ("wall", "door"),
    "floor": ("floor", "floor mat"),
    "bed": ("bed",),
    "chair": ("chair",),
    "sofa": ("sofa",),
    "table": ("table", "desk"),
    "window": ("window", "blinds", "curtain"),
    "picture": ("picture",),
    "ceiling": ("ceiling",),
    "books": ("books",),
    "television": ("television",),
    "furniture": ("cabinet", "bookshelf", "counter", "shelves", "dresser", "refrigerator", "refridgerator",
                  "night stand", "otherfurniture"),
}  # fmt: skip
BUILT_IN = {"nyu13": (NYU13, "objects", ("otherprop",))}  # merged classes, the name of the rest, ignored classes


@dataclass(frozen=True)
class Segmentation(Dense, Evaluation):
    """Mean IoU, pixel and class accuracy of a decoder on the maps, frozen or fine-tuned, by labelled pictures."""

    inflates: ClassVar[bool] = True

    merge: str | dict[str, tuple[str, ...]] | None = None  # classes to judge as one, by its name; or nyu13
    ignore: tuple[str, ...] = ()  # classes that are not judged, as pixels without a label
    suffix: str = ""  # after the metrics' names and headings, such as 13, to tell two such evaluations apart
    height: int | None = None  # of the label maps, pixels; null: the students' view's
    width: int | None = None  # of the label maps, pixels
    pictures: tuple[int | None, ...] = (10, 50, None)  # labelled pictures that decoders learn from; null: all
    draws: int = 3  # random choices of these pictures, the same for every network, whose metrics are averaged
    maps: tuple[int, ...] | None = None  # stages of the students, from 0; null: each grid's last, of stride 8 or more
    teacher_maps: tuple[int, ...] | None = None  # the same of the teacher
    decoder: Literal["linear", "conv", "fpn"] = "linear"  # from maps to logits
    decoder_width: int = 128  # channels of conv and fpn
    steps: int = 300  # optimiser steps of a decoder on frozen maps
    batch_size: int = 32  # pictures in a step
    lr: float = 3e-3  # peak learning rate of AdamW
    weight_decay: float = 1e-2  # of AdamW
    fine_tuned: tuple[int | None, ...] = (50,)  # labelled pictures that encoder and decoder learn from together
    fine_tuned_steps: int = 200  # optimiser steps
    fine_tuned_batch_size: int = 16  # pictures in a step
    fine_tuned_lr: float = 1e-3  # peak learning rate of AdamW
    fine_tuned_weight_decay: float = 0.05  # of AdamW
    scale: tuple[float, float] = (0.6, 1.0)  # smallest and largest share of the area that a random crop keeps
    ratio: tuple[float, float] = (0.8, 1.25)  # smallest and largest width over height of a crop, over the view's
    flip: float = 0.5  # probability that a crop is mirrored left to right

    def __post_init__(self) -> None:
        self.check()
        if isinstance(self.merge, str) and self.merge not in BUILT_IN:
            raise ValueError(f"merge must be a mapping or one of {', '.join(BUILT_IN)}, got {self.merge!r}")

    def qualities(self) -> tuple[Quality, ...]:
        """The measures, as torchmetrics defines them; see `crossmodal.metrics.segmentation`."""
        space = f" {self.suffix}" if self.suffix else ""
        return (
            Quality(f"miou{self.suffix}", f"mIoU{space}"),
            Quality(f"pixel_accuracy{self.suffix}", f"pixel accuracy{space}"),
            Quality(f"class_accuracy{self.suffix}", f"class accuracy{space}"),
        )

    def task(self, pairs: Pairs) -> Task:
        """The classes of both parts, merged."""
        train, test = (self.truth_view(pairs, shards, "labels") for shards in (pairs.train, pairs.test))
        stored = _classes(train)
        if stored != _classes(test):
            raise ValueError(f"{pairs.train.folder} and {pairs.test.folder} must have the same classes in labels, got "
                             f"{', '.join(stored)} and {', '.join(_classes(test))}")  # fmt: skip
        names, table = merged(stored, self.merge, self.ignore)
        return Classes(train, names, tuple(table), tuple(quality.name for quality in self.qualities()))

    def usable(self, pairs: Pairs, shards: Shards) -> list[int]:
        """Pairs that have a map of labels."""
        return pairs_with(shards, "labels")


@dataclass(frozen=True)
class Classes(Task):
    """The class of each place; answers are logits."""

    names: list[str]  # of the judged classes
    table: tuple[int, ...]  # judged class of each stored one, -1: ignored
    keys: tuple[str, ...]  # of the three metrics

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return len(self.names)

    def prepare(self, adapted: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """The judged classes, -1 where there is none."""
        return torch.tensor([*self.table, -1], device=adapted.device)[adapted.long()].float()

    def targets(self, truth: Float[Tensor, "batch 1 height width"]) -> tuple[Tensor, Tensor]:
        """One in the channel of the class."""
        hot = F.one_hot(truth[:, 0].long() + 1, len(self.names) + 1).movedim(-1, 1).float()
        return hot[:, 1:], 1 - hot[:, :1]

    def loss(self, answer: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
        """Cross-entropy, of an area against the shares of its classes."""
        return mean_of(-(target * answer.log_softmax(1)).sum(), weight)

    def score(self) -> Score:
        """A confusion matrix."""
        return Confusion(self.names, self.keys)

    def picture(self, answer: Float[Tensor, "classes height width"]) -> Float[Tensor, "3 height width"]:
        """The colours of the classes with the largest logits."""
        return self.show(answer.argmax(0, keepdim=True).float())

    def show(self, truth: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """The colours of the judged classes; no label is black."""
        height, width = truth.shape[1:]
        return MODALITIES.get("labels")(height=height, width=width, classes=tuple(self.names)).picture(truth)

    def legend(self) -> dict[str, str]:
        """The colour of each judged class."""
        return to_legend(self.names, self.show(torch.arange(len(self.names)).float()[None, None]))


class Confusion(Score):
    """A confusion matrix of pixels."""

    def __init__(self, names: Sequence[str], keys: Sequence[str]) -> None:
        self.names, self.keys = names, keys
        self.counts: Int[Tensor, "classes classes"] = torch.zeros(len(names), len(names), dtype=torch.int64)

    def add(self, answer: Tensor, truth: Tensor) -> None:
        """Counts pixels with a label."""
        self.counts += confusion(answer.argmax(1), truth[:, 0].long(), len(self.names)).cpu()

    def values(self) -> dict[str, float]:
        """The measures over all pixels together."""
        found = mean_iou(self.counts), pixel_accuracy(self.counts), class_accuracy(self.counts)
        return dict(zip(self.keys, found, strict=True))

    def parts(self) -> dict[str, float]:
        """The IoU of each class that is in the truth or answered."""
        pairs = zip(self.names, iou(self.counts).tolist(), strict=True)
        return {name: value for name, value in pairs if not math.isnan(value)}


def merged(
    stored: Sequence[str], merge: str | Mapping[str, Sequence[str]] | None, ignore: Sequence[str]
) -> tuple[list[str], list[int]]:
    """The names of the judged classes, and for each stored class the number of the judged one, -1 if it is ignored.

    Merged classes come first; classes that are not named keep their own name.

    Raises:
        ValueError: a name is not a class of the labels, a class is named twice, or fewer than two classes are left.
    """
    groups: dict[str, Sequence[str]] = {}
    rest, dropped = None, [*ignore]
    if isinstance(merge, str):
        parts, rest, unlabelled = BUILT_IN[merge]
        ours = {_plain(name): name for name in stored}
        groups = {new: [ours[_plain(old)] for old in olds if _plain(old) in ours] for new, olds in parts.items()}
        groups = {new: olds for new, olds in groups.items() if olds}
        if len(groups) < len(parts):
            raise ValueError(f"merge: {merge} needs the class {min(parts.keys() - groups)!r}, or a part of it, but the "
                             f"labels have {', '.join(stored)}")  # fmt: skip
        dropped += [ours[name] for name in map(_plain, unlabelled) if name in ours and ours[name] not in dropped]
    elif merge is not None:
        groups = dict(merge)
    named = [*(("merge", old) for olds in groups.values() for old in olds), *(("ignore", name) for name in dropped)]
    for place, (key, name) in enumerate(named):
        if name not in stored:
            raise ValueError(f"{key}: {name!r} is not a class of the labels{suggest(name, [*stored])}")
        if name in (other for _, other in named[:place]):
            raise ValueError(f"{key}: class {name!r} is named twice; name it once, in merge or in ignore")
    owner = {old: new for new, olds in groups.items() for old in olds}
    judged = {name: owner.get(name, rest or name) for name in stored if name not in dropped}
    names = [*dict.fromkeys([*groups, *judged.values()])]
    if clash := [name for name in groups if name in judged and owner.get(name) != name]:
        raise ValueError(f"merge: {clash[0]!r} is also a class of the labels; add it to those that are merged "
                         "into it, or give these another name")  # fmt: skip
    if len(names) < 2:
        raise ValueError(f"at least two classes must be left to judge, got {', '.join(names) or 'none'}")
    return names, [names.index(judged[name]) if name in judged else -1 for name in stored]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _classes(view: View) -> list[str]:
    return [*view.modality.classes]
