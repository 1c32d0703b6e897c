"""Charts and contact sheets. They are drawn without a display; nothing is shown, only written."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from crossmodal.checkpoint import write
from crossmodal.data.reader import join, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from pipelines.reporting.artefacts import Curve

matplotlib.rcParams["text.parse_math"] = False  # a $ in a user's name is a $

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568", "#975a16", "#086f83")
CHANCE = "#4a5568"  # chance, and pairs without a class
SIDE = 160  # pixels of a picture of an evaluation, at most
BLANK = torch.ones(3, 1, 1)  # in place of what a pair lacks
MARKS = "os^D"  # of points, by the use of a network
WIDTH = 5.2  # inches of a chart
NUMBERED = 20  # classes of a confusion matrix that has numbers, at most
NAMED = 40  # classes of one that has names, at most


@dataclass(frozen=True)
class Chart:
    """A drawing for the page."""

    source: str  # a data URI
    alt: str  # what it shows, for those who do not see it
    width: int  # CSS pixels where there is room


def contact_sheet(shards: Shards, views: Mapping[str, View], path: Path, *, count: int = 8) -> Path:
    """Writes what each network would see of some pairs: whole, and as a training look with its augmentation.

    A link at `path` is replaced; the file that it names stays as it is.
    """
    write(path, _png(draw_pairs(shards, views, spread(len(shards), count))))
    return path


def spread(total: int, count: int) -> list[int]:
    """Up to `count` positions, evenly over a data set."""
    return torch.linspace(0, total - 1, min(count, total)).long().tolist()


def draw_pairs(shards: Shards, views: Mapping[str, View], indices: Sequence[int]) -> Figure:
    """Pairs as columns; every view as two rows, whole and augmented, blank where a pair comes without it."""
    figure = Figure(figsize=(1.35 * len(indices) + 1, 2.8 * len(views)))
    axes = figure.subplots(2 * len(views), len(indices), squeeze=False)
    for below, (name, row) in enumerate(picture_pairs(shards, views, indices).items()):
        for column, picture in enumerate(row):
            show(axes[below][column], BLANK if picture is None else picture)
        axes[below][0].set_ylabel(legible(name).replace(", in", ",\nin"), fontsize=9)
    for column, name in enumerate(classes_of(shards, indices)):
        axes[0][column].set_title(name, fontsize=8)
    return figure


def picture_pairs(
    shards: Shards, views: Mapping[str, View], indices: Sequence[int]
) -> dict[str, list[Float[Tensor, "3 _ _"] | None]]:
    """What each network would see of some pairs, whole and in training, by view; None where a pair comes without it."""
    whole = join([read_pair(shards, dict(views), index, masks=True) for index in indices])
    crops = join([read_pair(shards, dict(views), index, crop=Crop(), masks=True) for index in indices])
    rows = {}
    for name, view in views.items():
        augmented = view.modality.augment(crops.adapted[name], crops.draws[name])
        for title, seen in ((name, whole.adapted[name]), (f"{name}, in training", augmented)):
            present = zip(seen, whole.present[name], strict=True)
            rows[title] = [view.modality.picture(one) if there else None for one, there in present]
    return rows


def classes_of(shards: Shards, indices: Sequence[int]) -> list[str]:
    """The names of the classes of some pairs as they can be drawn, empty where there is none."""
    labels, names = shards.labels(), shards.manifest.classes
    return [legible(names[labels[index]]) if labels[index] >= 0 else "" for index in indices]


def show(axes: Axes, picture: Tensor) -> None:
    """A picture [3, height, width] in [0, 1], without ticks."""
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axes.set_xticks([])
    axes.set_yticks([])


def draw_curves(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """Every figure of a training over its steps, by name."""
    every = dict.fromkeys(name for line in metrics for name in line)
    for name in every:
        if name in ("step", "epoch", "pairs_per_second", "phase"):
            continue
        figure = Figure(figsize=(3.3, 2.2))
        axes, told = figure.subplots(), [line for line in metrics if name in line]
        axes.plot([line["step"] for line in told], [line[name] for line in told], color=COLOURS[0], lw=1.3)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        _finish(axes)
        yield name, figure


def draw_curve(curve: Curve, colours: Mapping[str, str]) -> Figure:
    """A metric over a count, with the spread over seeds: a colour for each network, dashed where it is frozen."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    factor, kinds = 100 if curve.percent else 1, [*dict.fromkeys(line.kind for line in curve.lines)]
    for number, line in enumerate(curve.lines):
        aside = 0.012 * (number - (len(curve.lines) - 1) / 2)  # so that points of several lines are seen
        places = [place + aside for place, at in enumerate(curve.places) if at in line.points]
        points = [line.points[at] for at in curve.places if at in line.points]
        means = [factor * point["mean"] for point in points]
        axes.errorbar(
            places, means, _ends(points, factor), label=line.name, marker=MARKS[kinds.index(line.kind) % 4], ms=4,
            capsize=3, ls="--" if "frozen" in line.kind else "-", color=colours[line.network],
        )  # fmt: skip
    chance = [curve.chance.get(at) for at in curve.places]
    if any(level is not None for level in chance):
        levels = [math.nan if level is None else factor * level for level in chance]
        axes.plot(range(len(levels)), levels, color=CHANCE, ls=":", label="chance")
    axes.set_xticks(range(len(curve.places)), curve.places)
    axes.set(xlabel=curve.by, ylabel=curve.heading + (", %" if curve.percent else ""))
    if curve.percent:  # intervals of few repetitions may go beyond
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 103))
    _finish(axes)
    return figure


def _ends(points: Sequence[Mapping[str, Any]], factor: float) -> list[list[float]]:
    """How far the bars of some points reach down and up: to the ends of their intervals, or by the spread."""
    lengths = []
    for point in points:
        low, high = point.get("interval") or (point["mean"] - (spread := point["std"] or 0.0), point["mean"] + spread)
        lengths.append((factor * max(0.0, point["mean"] - low), factor * max(0.0, high - point["mean"])))
    return [[down for down, _ in lengths], [up for _, up in lengths]]


def draw_dots(rows: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]) -> Figure:
    """A line for each label, and on it a dot for each row that has the label; labels in the order of the rows."""
    labels = [*dict.fromkeys(label for row in rows.values() for label in row)]
    figure = Figure(figsize=(WIDTH, 0.2 * len(labels) + 0.7))
    axes = figure.subplots()
    for number, (name, row) in enumerate(rows.items()):
        places = [place for place, label in enumerate(labels) if label in row]
        axes.scatter([row[labels[place]] for place in places], places, s=26, alpha=0.85, label=name,
                     marker=MARKS[number % 4], color=colours[name], zorder=2)  # fmt: skip
    axes.hlines(range(len(labels)), *axes.get_xlim(), color="#e2e8f0", lw=1, zorder=1)
    axes.set_yticks(range(len(labels)), map(legible, labels))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    _finish(axes)
    return figure


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Which class is answered for which, in % of the pairs of the true class; with numbers where they can be read."""
    shares, number = shares_of(counts), len(classes)
    side = min(6.2, max(2.4, 0.3 * number))
    figure = Figure(figsize=(side + 1.6, side + 0.9))
    axes = figure.subplots()
    shown = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
    if number <= NUMBERED:
        for truth, row in enumerate(shares.tolist()):
            for answered, share in enumerate(row):
                if not math.isnan(share):
                    axes.text(answered, truth, f"{share:.0f}", ha="center", va="center", fontsize=7.5,
                              color="white" if share > 55 else "#1a202c")  # fmt: skip
    names = [legible(name) for name in classes] if number <= NAMED else []
    size = 8 if number <= NUMBERED else 6
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("answer", fontsize=9)
    axes.set_ylabel("truth", fontsize=9)
    bar = figure.colorbar(shown, fraction=0.04, pad=0.03)
    bar.set_label("% of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def shares_of(counts: Sequence[Sequence[int]]) -> Float[Tensor, "truth answer"]:
    """Each row of a confusion matrix in % of its sum, NaN where it is empty."""
    rows = torch.tensor(counts, dtype=torch.float64)
    return 100 * rows / rows.sum(1, keepdim=True)


def describe_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], *, most: int = 3) -> str:
    """The mean share that is right over the classes, and the classes that are most often taken for others."""
    shares = shares_of(counts)
    there = ~shares.isnan().any(1)
    right = shares.diagonal()[there].mean().item()
    wrong = shares.nan_to_num().fill_diagonal_(0)
    worst = wrong.flatten().argsort(descending=True)[:most].tolist()
    named = [(classes[at // len(classes)], classes[at % len(classes)], wrong.flatten()[at].item()) for at in worst]
    told = [f"{truth} as {answered} ({share:.0f} %)" for truth, answered, share in named if share > 0]
    often = f" Most often taken for another: {', '.join(told)}." if told else ""
    return f"Right in {right:.1f} % of a class's pairs, on average over the classes.{often}"


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each different name, in their order."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(dict.fromkeys(names))}


def draw_rows(results: Mapping[str, Any]) -> Figure:
    """The first metric of a comparison: every row's runs with mean and spread, and what they are compared with."""
    name, metric = next(iter(results["metrics"].items()))
    rows = {who: row["figures"][name] for who, row in results["rows"].items() if row["figures"][name]}
    figure = Figure(figsize=(WIDTH, 0.3 * len(rows) + 1.2))
    axes = figure.subplots()
    factor = 100 if metric["percent"] else 1
    for place, row in enumerate(rows.values()):
        axes.errorbar(
            factor * row["mean"], place, xerr=factor * (row["std"] or 0.0), fmt="o", capsize=3, color=COLOURS[0]
        )
        axes.scatter([factor * value for value in row["runs"]], [place] * len(row["runs"]), s=8, color=COLOURS[5])
    against = {who: figures[name]["mean"] for who, figures in results["baselines"].items() if figures[name]}
    for number, (who, value) in enumerate({**against, "chance": metric["chance"]}.items(), 1):
        if value is not None:
            axes.axvline(factor * value, label=who, ls="--", lw=1, color=COLOURS[number])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel(metric["heading"] + (", %" if metric["percent"] else ""))
    _finish(axes, figure)
    return figure


def draw_shares(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A stacked bar a posterior: what every part adds to its bound."""
    figure = Figure(figsize=(WIDTH, 0.4 * len(rows) + 1.2))
    axes = figure.subplots()
    left = dict.fromkeys(rows, 0.0)
    for number, part in enumerate(next(iter(rows.values()))["shares"]):
        widths = [row["shares"][part] for row in rows.values()]
        axes.barh(list(rows), widths, left=list(left.values()), label=part, color=COLOURS[number])
        left = {name: left[name] + width for name, width in zip(rows, widths, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("bound on the risk")
    _finish(axes, figure)
    return figure


def draw_certificates(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Bound, risk on the certified pairs and risk on unseen ones, posterior by posterior."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    for number, (key, label) in enumerate(
        (("total", "bound"), ("without_monte_carlo", "bound, were the drawn weights all there are"),
         ("test_risk", "risk on unseen pairs"), ("train_risk", "risk on certified pairs"))
    ):  # fmt: skip
        axes.plot([*rows], [row[key] for row in rows.values()], marker="o", ms=4, label=label, color=COLOURS[number])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("risk")
    _finish(axes, figure)
    return figure


def draw_map(points: Tensor, label: Tensor, classes: Sequence[str], names: Sequence[str]) -> Figure:
    """Embeddings of pairs by one or two networks, [names * pairs, 2]; coloured by class, with a mark for each."""
    figure = Figure(figsize=(WIDTH, 4.2))
    axes = figure.subplots()
    palette = class_colours(len(classes))
    for part, marker, colour, name in zip(points.chunk(len(names)), "o^", COLOURS, names, strict=False):
        colours = [palette[one] if one >= 0 else CHANCE for one in label.tolist()] if classes else colour
        axes.scatter(part[:, 0], part[:, 1], marker=marker, s=14, alpha=0.75, label=name, c=colours)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def class_colours(count: int) -> list[str]:
    """A colour for each class; beyond `NUMBERED` classes they repeat."""
    names = "tab10" if count <= 10 else "tab20"
    return [to_hex(colormaps[names](number % colormaps[names].N)) for number in range(count)]


def _finish(axes: Axes, figure: Figure | None = None) -> None:
    """The look that all charts share; a key below those of which the figure is given, for the page has none."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if figure is not None:
        figure.set_layout_engine("constrained")  # which keeps the key clear of the axis
        figure.legend(fontsize=8, frameon=False, loc="outside lower left", ncols=2)


def legible(name: str) -> str:
    """A name as it can be drawn: bytes that are not UTF-8 and control characters show as a question mark."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)


def embed(figure: Figure, alt: str) -> Chart:
    """The figure for a page that needs no other file, sharp on screens of twice the usual density."""
    png = _png(figure, 192)
    return Chart(_embed(png), alt, round(Image.open(io.BytesIO(png)).width / 2))


def embed_picture(picture: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]) -> str:
    """The picture, in bytes or in [0, 1], as a data URI; at most `SIDE` pixels to a side."""
    shown = picture if picture.dtype == torch.uint8 else (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    image, buffer = Image.fromarray(shown.permute(1, 2, 0).numpy()), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    image.save(buffer, format="png", optimize=True)
    return _embed(buffer.getvalue())


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(figure: Figure, dpi: int = 110) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()
