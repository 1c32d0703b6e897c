"""Metrics of label maps against torchmetrics, with ignored places and absent classes."""

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from crossmodal.metrics.segmentation import class_accuracy, confusion, iou, mean_iou, pixel_accuracy
from modalities.common.random import generator

CLASSES = 7
# classes that are drawn in the answer and in the truth; the others are absent there
CASES = {"all": ([*range(7)], [*range(7)]), "absent in both": ([0, 1, 2, 4], [0, 2, 3, 5]), "one": ([3], [3]),
         "never right": ([0, 1], [2, 3])}  # fmt: skip


def drawn(case: str, ignored: float) -> tuple[Tensor, Tensor]:
    random = generator("segmentation", case)
    answer, truth = (
        torch.tensor(known)[torch.randint(len(known), (3, 16, 20), generator=random)] for known in CASES[case]
    )
    truth = torch.where(
        torch.rand(truth.shape, generator=random) < 0.4, truth, answer if case != "never right" else truth
    )
    if case == "absent in both":
        truth = truth.where(truth != 4, 0)  # which is answered all the same
    return answer, truth.masked_fill(torch.rand(truth.shape, generator=random) < ignored, -1)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_metrics_equal_torchmetrics(case: str, ignored: float) -> None:
    answer, truth = drawn(case, ignored)
    counts = confusion(answer, truth, CLASSES)
    options = {"num_classes": CLASSES, "ignore_index": -1}
    theirs = [
        metric(answer, truth).item()
        for metric in (
            MulticlassJaccardIndex(average="macro", **options),
            MulticlassAccuracy(average="micro", **options),
            MulticlassAccuracy(average="macro", **options),
        )
    ]
    assert [mean_iou(counts), pixel_accuracy(counts), class_accuracy(counts)] == pytest.approx(theirs, abs=1e-6)
    assert torch.equal(counts, MulticlassConfusionMatrix(**options)(answer, truth))
    each = MulticlassJaccardIndex(average="none", **options)(answer, truth)  # 0 where ours is NaN
    torch.testing.assert_close(iou(counts).nan_to_num(0).float(), each)


def test_by_eye() -> None:
    answer, truth = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 0, -1])
    counts = confusion(answer, truth, 3)
    assert counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert iou(counts)[:2].tolist() == [pytest.approx(1 / 3), 2 / 4] and iou(counts)[2].isnan()
    assert mean_iou(counts) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (pixel_accuracy(counts), class_accuracy(counts)) == (3 / 5, pytest.approx((1 / 2 + 2 / 3) / 2))


def test_maps_add_up() -> None:
    answer, truth = drawn("all", 0.3)
    parts = [confusion(one, other, CLASSES) for one, other in zip(answer, truth, strict=True)]
    assert torch.equal(torch.stack(parts).sum(0), confusion(answer, truth, CLASSES))


@pytest.mark.parametrize("metric", [mean_iou, pixel_accuracy, class_accuracy])
def test_maps_without_any_class_are_refused(metric) -> None:
    counts = confusion(torch.zeros(4, dtype=torch.int64), torch.full((4,), -1), 3)
    with pytest.raises(ValueError, match="no place of the label maps has a class"):
        metric(counts)
