"""What the evaluations of a run hand over for the page: curves, bars and pictures, by kind."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.config import ConfigError

FEW_LABELS, BALANCED = "Few labels", "Few labels, balanced accuracy"  # titles of curves
Figures = Mapping[str, Any]  # of an evaluation's report.json


@dataclass(frozen=True)
class Line:
    """The points of a network on a curve."""

    network: str
    kind: str  # one of several lines of the network, such as frozen; may be empty
    points: Mapping[str, Mapping[str, Any]]  # mean and std by place

    @property
    def name(self) -> str:
        """The name in the legend."""
        return f"{self.network}, {self.kind}" if self.kind else self.network


@dataclass(frozen=True)
class Curve:
    """A metric over a count, such as labels a class."""

    title: str
    heading: str  # of the metric
    by: str  # what is counted
    percent: bool
    places: Sequence[str]  # the counts in order
    chance: Mapping[str, float | None]  # by place
    lines: Sequence[Line]


@dataclass(frozen=True)
class Sheet:
    """The pictures of an evaluation: rows by label, each of the same pairs."""

    title: str
    legend: Mapping[str, str]  # what colours mean: "#rrggbb" by label
    context: Mapping[str, Tensor]  # what networks are given and what is right
    groups: Mapping[str, Mapping[str, Tensor]]  # by title: what each network makes of it


def curves(figures: Figures) -> Iterator[Curve]:
    """The curves of few labels, and those that metrics are points of."""
    metrics, table = figures["metrics"], figures["table"]
    if balanced := figures.get("few_labels_balanced"):
        level = metrics.get("probe.balanced", {}).get("chance")
        yield _few_labels(BALANCED, "balanced test accuracy", balanced, lambda _: level)
    if figures["few_labels"]:
        yield _few_labels(
            FEW_LABELS, "test accuracy", figures["few_labels"], lambda at: metrics[f"frozen@{at}"]["chance"]
        )
    for heading in dict.fromkeys(metric["point"]["heading"] for metric in metrics.values() if "point" in metric):
        on = {name: metric for name, metric in metrics.items() if metric.get("point", {}).get("heading") == heading}
        lines = []
        for network, row in table.items():
            for kind in dict.fromkeys(metric["point"]["line"] for metric in on.values()):
                points = {_place(metric): row[name] for name, metric in on.items()
                          if name in row and metric["point"]["line"] == kind}  # fmt: skip
                if points:
                    lines.append(Line(network, kind, points))
        if lines:
            first = next(iter(on.values()))
            counts = {metric["point"]["at"] for metric in on.values()}
            places = [str(count) for count in sorted(counts - {None})] + ["all"] * (None in counts)
            chance = {_place(metric): metric["chance"] for metric in on.values()}
            by = first["point"]["by"]
            yield Curve(f"{heading}, by {by}", heading, by, first["percent"], places, chance, lines)


def _few_labels(
    title: str, heading: str, rows: Mapping[str, Mapping[str, Any]], chance: Callable[[str], float | None]
) -> Curve:
    places = [*next(iter(rows.values()))]
    lines = [Line(*_split(name), points) for name, points in rows.items()]
    return Curve(title, heading, "labels a class", True, places, {at: chance(at) for at in places}, lines)


def bars(figures: Figures) -> Iterator[tuple[str, Mapping[str, Mapping[str, float]]]]:
    """Numbers by title, row and label."""
    for titles in figures.get("details", {}).values():
        yield from titles.items()


def sheets(figures: Figures, folder: Path) -> Iterator[Sheet]:
    """The pictures of each evaluation that has some.

    Raises:
        ConfigError: their file is missing or damaged.
    """
    if not figures.get("shown"):
        return
    rows = {tuple(json.loads(name)): pictures for name, pictures in tensors(folder / "pictures.safetensors").items()}
    for key, shown in figures["shown"].items():
        given = {title: {who: rows[key, who, title] for who in figures["table"] if (key, who, title) in rows}
                 for kind in ("context", "pictures", "components") for title in shown[kind]}  # fmt: skip
        context = {label: row for title in shown["context"] for label, row in _different(title, given[title])}
        groups = {title: given[title] for title in shown["pictures"]}
        groups |= {title: colour_components(given[title]) for title in shown["components"]}
        yield Sheet(key, shown["legend"], context, groups)


def colour_components(
    rows: Mapping[str, Float[Tensor, "pairs 3 _ _"]],
) -> dict[str, UInt8[Tensor, "pairs 3 _ _"]]:
    """Components of maps as colours, whose axes are rotated and mirrored to agree best with those of the first row.

    Without this, maps that hold the same would differ in colour, for the axes of each network's components are its own.
    """
    first, found = next(iter(rows.values())), dict[str, Tensor]()
    for who, row in rows.items():
        other = F.interpolate(first, row.shape[2:], mode="bilinear")
        places, reference = (each.movedim(1, -1).flatten(0, 2).double() for each in (row, other))
        left, _, right = torch.linalg.svd(places.T @ reference)  # the orthogonal Procrustes problem
        places = places @ left @ right
        low, high = (torch.quantile(places, share, dim=0) for share in (0.02, 0.98))
        colours = ((places - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 255
        found[who] = colours.round().to(torch.uint8).unflatten(0, (len(row), *row.shape[2:])).movedim(-1, 1)
    return found


def tensors(path: Path) -> dict[str, Tensor]:
    """The content of a file of a run.

    Raises:
        ConfigError: it is missing or damaged.
    """
    again = "run crossmodal evaluate with a new output"
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ConfigError([f"runs: {path} is missing; {again}"]) from error
    except (OSError, SafetensorError) as error:
        raise ConfigError([f"runs: {path} cannot be read ({error}); {again}"]) from error


def _different(title: str, rows: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rows of pictures that are equal for some networks, once for these."""
    found: list[tuple[list[str], Tensor]] = []
    for who, row in rows.items():
        for names, other in found:
            if torch.equal(row, other):
                names.append(who)
                break
        else:
            found.append(([who], row))
    for names, row in found:
        yield title if len(found) == 1 else f"{title}: {', '.join(names)}", row


def _split(name: str) -> tuple[str, str]:
    """The network of a line of few labels, and its use."""
    network, _, use = name.rpartition(", ")
    return (network, use) if use in ("frozen", "fine-tuned") else (name, "")


def _place(metric: Mapping[str, Any]) -> str:
    return "all" if metric["point"]["at"] is None else str(metric["point"]["at"])
