"""Figures for people: contact sheets, curves, bars, maps. Drawn without a display; nothing is shown, only written."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import UInt8
from matplotlib.axes import Axes
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
SIDE = 160  # pixels of a picture of an evaluation, at most
BLANK = torch.ones(3, 1, 1)  # in place of what a pair lacks


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
    whole = join([read_pair(shards, dict(views), index, masks=True) for index in indices])
    crops = join([read_pair(shards, dict(views), index, crop=Crop(), masks=True) for index in indices])
    for row, (name, view) in enumerate(views.items()):
        augmented = view.modality.augment(crops.adapted[name], crops.draws[name])
        for column, there in enumerate(whole.present[name]):
            for below, seen in enumerate((whole.adapted[name][column], augmented[column])):
                show(axes[2 * row + below][column], view.modality.picture(seen) if there else BLANK)
        axes[2 * row][0].set_ylabel(legible(name), fontsize=9)
        axes[2 * row + 1][0].set_ylabel(f"{legible(name)},\nin training", fontsize=9)
    for column, label in enumerate(whole.label.tolist()):
        axes[0][column].set_title(legible(shards.manifest.classes[label]) if label >= 0 else "", fontsize=8)
    return figure


def show(axes: Axes, picture: Tensor) -> None:
    """A picture [3, height, width] in [0, 1], without ticks."""
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axes.set_xticks([])
    axes.set_yticks([])


def draw_retrieval(
    shards: Shards, query: View, answer: View, queries: Sequence[int], found: Sequence[Sequence[int]]
) -> Figure:
    """A row a query: what the student saw, its true partner, and the partners it finds; the right one is framed."""
    width = 2 + len(found[0])
    figure = Figure(figsize=(1.25 * width, 1.35 * len(queries)))
    axes = figure.subplots(len(queries), width, squeeze=False)
    for row, (index, hits) in enumerate(zip(queries, found, strict=True)):
        pair = read_pair(shards, {"query": query, "answer": answer}, index)
        show(axes[row][0], query.modality.picture(pair.adapted["query"][0]))
        show(axes[row][1], answer.modality.picture(pair.adapted["answer"][0]))
        for column, hit in enumerate(hits, 2):
            other = read_pair(shards, {"answer": answer}, hit)
            show(axes[row][column], answer.modality.picture(other.adapted["answer"][0]))
            if hit == index:
                for spine in axes[row][column].spines.values():
                    spine.set(color="#2f855a", linewidth=3)
    for column, title in enumerate(["query", "its pair", *(f"found {rank}" for rank in range(1, width - 1))]):
        axes[0][column].set_title(title, fontsize=8)
    return figure


def draw_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Every figure of a training over its steps."""
    every = dict.fromkeys(name for line in metrics for name in line)
    names = [name for name in every if name not in ("step", "epoch", "pairs_per_second", "phase")]
    columns = min(len(names), 5)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows))
    for number, name in enumerate(names, 1):
        axes, told = figure.add_subplot(rows, columns, number), [line for line in metrics if name in line]
        axes.plot([line["step"] for line in told], [line[name] for line in told], color=COLOURS[0], lw=1.3)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def draw_curve(curve: Curve, colours: Mapping[str, str]) -> Figure:
    """A metric over a count, with the spread over seeds: a colour for each network, dashed where it is frozen."""
    figure = Figure(figsize=(8.5, 3.6))
    axes = figure.subplots()
    factor, marks = 100 if curve.percent else 1, dict.fromkeys(line.kind for line in curve.lines)
    for number, line in enumerate(curve.lines):
        aside = 0.012 * (number - (len(curve.lines) - 1) / 2)  # so that points of several lines are seen
        places = [place + aside for place, at in enumerate(curve.places) if at in line.points]
        points = [line.points[at] for at in curve.places if at in line.points]
        means, spreads = ([factor * (point[key] or 0.0) for point in points] for key in ("mean", "std"))
        axes.errorbar(
            places, means, spreads, label=line.name, marker="os^D"[[*marks].index(line.kind) % 4], ms=4, capsize=3,
            ls="--" if "frozen" in line.kind else "-", color=colours[line.network],
        )  # fmt: skip
    chance = [curve.chance.get(at) for at in curve.places]
    if any(value is not None for value in chance):
        levels = [math.nan if value is None else factor * value for value in chance]
        axes.plot(range(len(levels)), levels, color="#a0aec0", ls=":", label="chance")
    axes.set_xticks(range(len(curve.places)), curve.places)
    axes.set(xlabel=curve.by, ylabel=curve.heading + (", %" if curve.percent else ""))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_bars(rows: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]) -> Figure:
    """A group of bars for each label, in it a bar for each row that has the label; labels in the order of the rows."""
    labels = [*dict.fromkeys(label for row in rows.values() for label in row)]
    figure = Figure(figsize=(9.5, 2.6))
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, (name, row) in enumerate(rows.items()):
        places = [place + (number - (len(rows) - 1) / 2) * width for place, label in enumerate(labels) if label in row]
        axes.bar(places, [row[label] for label in labels if label in row], width, label=name, color=colours[name])
    is_long = len(labels) > 10 or max(map(len, labels)) > 10
    axes.set_xticks(range(len(labels)), map(legible, labels), fontsize=8, rotation=45 if is_long else 0,
                    ha="right" if is_long else "center", rotation_mode="anchor")  # fmt: skip
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each different name, in their order."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(dict.fromkeys(names))}


def draw_rows(results: Mapping[str, Any]) -> Figure:
    """The first metric of a comparison: every row's runs with mean and spread, and what they are compared with."""
    name, metric = next(iter(results["metrics"].items()))
    rows = {who: row["figures"][name] for who, row in results["rows"].items() if row["figures"][name]}
    figure = Figure(figsize=(7, 0.35 * len(rows) + 1.2))
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
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_shares(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A stacked bar a posterior: what every part adds to its bound."""
    figure = Figure(figsize=(7.5, 0.45 * len(rows) + 1.2))
    axes = figure.subplots()
    left = dict.fromkeys(rows, 0.0)
    for number, part in enumerate(next(iter(rows.values()))["shares"]):
        widths = [row["shares"][part] for row in rows.values()]
        axes.barh(list(rows), widths, left=list(left.values()), label=part, color=COLOURS[number])
        left = {name: left[name] + width for name, width in zip(rows, widths, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("bound on the risk")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_certificates(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Bound, risk on the certified pairs and risk on unseen ones, posterior by posterior."""
    figure = Figure(figsize=(7.5, 3.2))
    axes = figure.subplots()
    for number, (key, label) in enumerate(
        (("total", "bound"), ("without_monte_carlo", "bound, were the drawn weights all there are"),
         ("test_risk", "risk on unseen pairs"), ("train_risk", "risk on certified pairs"))
    ):  # fmt: skip
        axes.plot([*rows], [row[key] for row in rows.values()], marker="o", ms=4, label=label, color=COLOURS[number])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_map(points: Tensor, label: Tensor, classes: Sequence[str], names: Sequence[str]) -> Figure:
    """Embeddings of pairs by one or two networks, [names * pairs, 2]; coloured by class, with a mark for each."""
    figure = Figure(figsize=(6.5, 5))
    axes = figure.subplots()
    for part, marker, colour, name in zip(points.chunk(len(names)), "o^", COLOURS, names, strict=False):
        colours = {"c": label.tolist(), "cmap": "tab20"} if classes else {"color": colour}
        axes.scatter(part[:, 0], part[:, 1], marker=marker, s=12, alpha=0.7, label=name, **colours)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8)
    return figure


def legible(name: str) -> str:
    """A name as it can be drawn: bytes that are not UTF-8 and control characters show as a question mark."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)


def embed_png(figure: Figure) -> str:
    """The figure as a data URI, for a page that needs no other file."""
    return _embed(_png(figure))


def embed_picture(picture: UInt8[Tensor, "3 height width"]) -> str:
    """The picture as a data URI, at most `SIDE` pixels to a side."""
    image, buffer = Image.fromarray(picture.permute(1, 2, 0).numpy()), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    image.save(buffer, format="png", optimize=True)
    return _embed(buffer.getvalue())


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()
