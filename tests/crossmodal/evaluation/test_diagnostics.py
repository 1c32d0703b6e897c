"""Which pairs are diagnosed, and what chance is among them."""

import pytest
import torch
from embedded import LEARN, draw, labelled, seen

from crossmodal.evaluation.diagnostics import Diagnostics
from crossmodal.metrics import few_labels

LABELS = torch.tensor([1, 0, 1, 0, 1, 1, 0, 0])


def test_pairs_are_diagnosed_by_their_own_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    picked: list[list[int]] = []
    monkeypatch.setattr(
        "crossmodal.evaluation.diagnostics.diagnose_encoder", lambda *given, **_: picked.append(given[3]) or {}
    )
    Diagnostics(per_class=2).measure(seen(draw("train", 6, 3), draw("test", 8, 3)), labelled(LEARN, LABELS))
    assert picked == [few_labels.pick_labelled(LABELS, 2, 0)] and LABELS[picked[0]].tolist().count(1) == 2


def test_chance_is_one_among_the_picked_pairs_and_the_share_of_the_largest_class() -> None:
    labels = torch.tensor([1, 0, 1, 0, 1, 1, 0, 1])
    found = Diagnostics(per_class=2).chance(labelled(LEARN, labels))
    assert found == {"instance": 1 / 4, "best_knn": 5 / 8}
