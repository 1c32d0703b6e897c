"""Curves, bars and pictures that evaluations hand over, as the page takes them from a run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modalities.common.random import generator
from pipelines.config import ConfigError
from pipelines.reporting.artefacts import bars, colour_components, curves, sheets, tensors


def metric(heading: str, at: int | None, line: str, *, percent: bool = True) -> dict[str, Any]:
    point = {"heading": heading, "by": "pictures", "at": at, "line": line}
    return {"heading": f"{heading} {at}", "higher_is_better": True, "percent": percent, "chance": 0.1, "point": point}


def value(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 0.5, "runs": [mean]}


FIGURES: dict[str, Any] = {
    "few_labels": {},
    "metrics": {
        "knn": {"heading": "kNN", "higher_is_better": True, "percent": True, "chance": 0.5},
        "iou.f@10": metric("IoU", 10, "frozen"),
        "iou.f@all": metric("IoU", None, "frozen"),
        "iou.f@9": metric("IoU", 9, "frozen"),
        "iou.t@50": metric("IoU", 50, "tuned"),
        "error": metric("error, m", None, "", percent=False),
        "unmeasured": metric("nothing", 1, ""),
        "layer.0": metric("probe", 0, ""),
    },
    "table": {
        "teacher": {"knn": value(0.9), "iou.f@10": value(0.1), "iou.f@all": value(0.3), "layer.0": value(0.6)},
        "ours": {"iou.f@9": value(0.2), "iou.t@50": value(0.4), "error": value(7.0)},
    },
}


def test_metrics_are_points_of_curves_in_the_order_of_their_counts() -> None:
    iou, error, probe = curves(FIGURES)
    assert (iou.heading, iou.title, iou.by, iou.percent) == ("IoU", "IoU, by pictures", "pictures", True)
    assert iou.places == ["9", "10", "50", "all"] and iou.chance == dict.fromkeys(iou.places, 0.1)
    found = {line.name: {at: point["mean"] for at, point in line.points.items()} for line in iou.lines}
    assert found == {"teacher, frozen": {"10": 0.1, "all": 0.3}, "ours, frozen": {"9": 0.2}, "ours, tuned": {"50": 0.4}}
    assert (error.places, error.percent, [line.name for line in error.lines]) == (["all"], False, ["ours"])
    assert (probe.places, [line.name for line in probe.lines]) == (["0"], ["teacher"])


def test_few_labels_are_a_curve_whose_lines_name_the_network_and_its_use() -> None:
    few = {"a, b, frozen": {"1": value(0.1), "all": value(0.2)}, "scratch": {"1": value(0.3), "all": value(0.4)}}
    chance = {"frozen@1": {"chance": 0.25}, "frozen@all": {"chance": 0.25}}
    (found,) = curves({"few_labels": few, "metrics": chance, "table": {}})
    assert [(line.network, line.kind, line.name) for line in found.lines] == [
        ("a, b", "frozen", "a, b, frozen"), ("scratch", "", "scratch")
    ]  # fmt: skip
    assert found.places == ["1", "all"] and found.chance == {"1": 0.25, "all": 0.25}
    assert found.lines[1].points == few["scratch"]


def test_runs_of_earlier_versions_hand_over_nothing(tmp_path: Path) -> None:
    figures = {"few_labels": {}, "metrics": {"knn": FIGURES["metrics"]["knn"]}, "table": FIGURES["table"]}
    assert not [*curves(figures)] and not [*bars(figures)] and not [*sheets(figures, tmp_path)]


SHOWN = {"legend": {"wall": "#ff0000"}, "context": ["input", "truth"], "pictures": ["z", "a"], "components": ["maps"]}


def handed_over(folder: Path, **shown: Any) -> dict[str, Any]:
    """A run with pictures of three networks, of which the teacher sees other pictures; the first student has no "a"."""
    grey = lambda level: torch.full((2, 3, 4, 4), level, dtype=torch.uint8)  # noqa: E731
    rows = {}
    for number, who in enumerate(("teacher", "ours", "random")):
        rows[who, "input"], rows[who, "truth"] = grey(7 if who == "teacher" else 8), grey(9)
        rows[who, "z"], rows[who, "a"] = grey(10 + number), grey(20 + number)
        rows[who, "maps"] = torch.randn(2, 3, 4, 4, generator=generator("maps", number))
    del rows["ours", "a"]
    named = {json.dumps(["seg", *name]): picture for name, picture in rows.items()}
    save_file(named, folder / "pictures.safetensors")
    return {"table": {"teacher": {}, "ours": {}, "random": {}}, "shown": {"seg": SHOWN | shown}}


def test_pictures_come_in_the_order_of_the_table_and_equal_rows_of_the_context_once(tmp_path: Path) -> None:
    (sheet,) = sheets(handed_over(tmp_path), tmp_path)
    assert sheet.title == "seg" and sheet.legend == {"wall": "#ff0000"}
    context = {label: int(row.max()) for label, row in sheet.context.items()}
    assert [*context.items()] == [("input: teacher", 7), ("input: ours, random", 8), ("truth", 9)]
    groups = [(title, [*rows]) for title, rows in sheet.groups.items()]
    assert groups == [("z", ["teacher", "ours", "random"]), ("a", ["teacher", "random"]),
                      ("maps", ["teacher", "ours", "random"])]  # fmt: skip
    assert all(picture.dtype == torch.uint8 for rows in sheet.groups.values() for picture in rows.values())


def turn(seed: str) -> Tensor:
    return torch.linalg.qr(torch.randn(3, 3, generator=generator("turn", seed)))[0]


def test_components_that_differ_by_a_rotation_or_a_mirror_have_the_same_colours() -> None:
    first = torch.randn(2, 3, 6, 5, generator=generator("first")) * torch.tensor([3.0, 2.0, 1.0])[:, None, None]
    rows = {"first": first, "turned": torch.einsum("nchw,cd->ndhw", first, turn("a")), "mirrored": -first,
            "other": torch.randn(2, 3, 6, 5, generator=generator("other"))}  # fmt: skip
    found = {who: picture.int() for who, picture in colour_components(rows).items()}
    assert (found["first"] - found["turned"]).abs().max() <= 1 and torch.equal(found["first"], found["mirrored"])
    assert (found["first"] - found["other"]).abs().float().mean() > 30
    assert all(picture.amin() == 0 and picture.amax() == 255 for picture in found.values())


def test_components_of_other_grids_and_of_fewer_channels_have_colours() -> None:
    rows = {"fine": torch.randn(2, 3, 6, 5, generator=generator("fine")), "coarse": torch.zeros(2, 3, 1, 2)}
    assert [tuple(picture.shape) for picture in colour_components(rows).values()] == [(2, 3, 6, 5), (2, 3, 1, 2)]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "is missing"), (b"no tensors", r"cannot be read \(.*header.*\)")]
)
def test_pictures_that_cannot_be_read_are_named_with_what_to_do(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    figures, path = handed_over(tmp_path), tmp_path / "pictures.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    told = f"runs: {path} {reason}; run crossmodal evaluate with a new output"
    for read in (lambda: [*sheets(figures, tmp_path)], lambda: tensors(path)):
        with pytest.raises(ConfigError, match=told):
            read()
