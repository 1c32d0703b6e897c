"""The parts of the page: what it begins with, and a section for each run, with pictures, figures and config."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from crossmodal import models
from crossmodal.data.views import View
from pipelines.building.data import networks_of, open_shards, open_views
from pipelines.config import ConfigError, load
from pipelines.evaluation.students import taught
from pipelines.evaluation.subjects import Subjects
from pipelines.reporting import artefacts, strips, table
from pipelines.reporting.answer import Answer, Evaluated, answer_of, metrics_of, plain_name
from pipelines.reporting.pictures import (
    NUMBERED,
    class_colours,
    colours_of,
    describe_confusion,
    draw_certificates,
    draw_confusion,
    draw_curve,
    draw_curves,
    draw_dots,
    draw_map,
    draw_rows,
    draw_shares,
    embed,
    legible,
    spread,
)
from pipelines.runs.folder import METRICS, REPORT, RUN, read_record
from pipelines.schemas import evaluate, transfer
from pipelines.schemas.common import ViewConfig

SHOWN = 600  # pairs in a map of embeddings, evenly spread
PAIRS = 8  # pairs of a sheet
NAMES = {
    "shards": "Pairs",
    "supervise": "Training with labels",
    "transfer": "Transfer",
    "pretrain": "Pretraining",
    "evaluate": "Evaluation",
    "compare": "Comparison",
    "certify": "Certificate",
}


def describe_answer(folders: Sequence[Path]) -> Answer:
    """What the page begins with: the verdicts and the main figures of its evaluations.

    Evaluations that belong to a comparison on the page are left out; the comparison has a table of its own.
    """
    reports = {folder: read_record(folder / REPORT) for folder in folders}
    compared = [folder for folder, report in reports.items() if report["pipeline"] == "compare"]
    judged = [folder for folder, report in reports.items() if report["pipeline"] == "evaluate"
              and not any(folder.is_relative_to(other) for other in compared)]  # fmt: skip
    found = []
    for folder, name in zip(judged, _short(judged), strict=True):
        _refuse_old(reports[folder], folder)
        asked = load(evaluate.Config, folder / "config.yaml", stored=True)
        found.append(Evaluated(name, reports[folder]["figures"], read_record(folder / RUN).get("inputs", {}), asked))
    return answer_of(found)


def _short(folders: Sequence[Path]) -> list[str]:
    """The paths without what all of them begin with."""
    parts = [folder.parts for folder in folders]
    least = min(map(len, parts), default=1)
    same = next((place for place in range(least) if len({each[place] for each in parts}) > 1), least - 1)
    return [str(Path(*each[same:])) for each in parts]


def describe_run(folder: Path, layout: str) -> dict[str, Any]:
    """The section of the page on one run."""
    report, started = read_record(folder / REPORT), read_record(folder / RUN)
    _refuse_old(report, folder)
    section = {
        "name": str(folder),
        "title": NAMES.get(report["pipeline"], report["pipeline"]),
        "pipeline": report["pipeline"],
        "figures": report["figures"],
        "dropped": report.get("dropped", 0),  # of shards: pairs
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "started": started["environment"],
        "written": report["environment"]["written"],
        "bars": [],  # what colours of views mean
        "legends": {},  # the same of classes of pixels, by view
        "charts": {},  # by title
        "more": {},  # charts of less interest, by title
        "strips": {},  # by title
        "folded": {},  # charts of a training, by title
    }
    drawers = {
        "shards": _shards,
        "supervise": _training,
        "transfer": _training,
        "pretrain": _training,
        "evaluate": _evaluate,
        "compare": _compare,
        "certify": _certify,
    }
    if report["pipeline"] in drawers:
        drawers[report["pipeline"]](section, folder, layout)
    return section


def _refuse_old(report: Mapping[str, Any], folder: Path) -> None:
    """Refuses reports without headings.

    Raises:
        ConfigError: names the run, and what to do.
    """
    if report["pipeline"] in ("evaluate", "compare") and not isinstance(report["figures"].get("metrics"), dict):
        again = {"evaluate": "crossmodal evaluate with a new output", "compare": "crossmodal compare"}
        raise ConfigError([f"runs: {folder} was written by an earlier version, whose report has no headings; run "
                           f"{again[report['pipeline']]} again"])  # fmt: skip


def _shards(section: dict[str, Any], folder: Path, layout: str) -> None:
    split = next(iter(section["figures"]))
    fields = _open(folder / split, {})[0].manifest.fields
    shards, views = _open(folder / split, {name: ViewConfig(spec.modality) for name, spec in fields.items()})
    _show_pairs(section, "Pairs as they are, and in training", shards, views)


def _training(section: dict[str, Any], folder: Path, layout: str) -> None:
    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    for title, phase in (("Curves of the preparation", "prepare"), ("Curves", None)):
        if drawn := [line for line in lines if line.get("phase") == phase]:
            section["folded"][title] = [embed(figure, f"{name} over the steps") for name, figure in draw_curves(drawn)]
    if section["pipeline"] == "transfer":
        asked = load(transfer.Config, folder / "config.yaml", stored=True)
        shards, views = _open(Path(asked.data), asked.views, networks_of(asked.teachers, asked.student))
        _show_pairs(section, "Pairs as each network saw them", shards, views)


def _show_pairs(section: dict[str, Any], title: str, shards: Any, views: Mapping[str, View]) -> None:
    section["strips"][title] = strips.pair_strips(shards, views, spread(len(shards), PAIRS))
    modalities = {name: view.modality for name, view in views.items()}
    section["bars"], section["legends"] = strips.colour_bars(modalities), strips.class_legends(modalities)


def _evaluate(section: dict[str, Any], folder: Path, layout: str) -> None:
    figures, asked = section["figures"], load(evaluate.Config, folder / "config.yaml", stored=True)
    curves = [*artefacts.curves(figures)]
    networks = [*figures["table"], *(line.network for curve in curves for line in curve.lines)]
    key = colours_of([*map(plain_name, networks)])
    colours = {name: key[plain_name(name)] for name in networks}
    section["colours"], section["classes"] = key, {}
    section["kinds"] = [*dict.fromkeys(line.kind for curve in curves for line in curve.lines if line.kind)]
    section["tables"] = {"Metrics": table.parts_of(_metrics(figures), table.WIDE)} if _metrics(figures)[1:] else {}
    main, more = _main_curves(figures, asked), section["more"]
    for curve in curves:
        section["tables"][curve.title] = table.parts_of(_places(curve))
        if len(curve.places) > 1:  # of one place, a table is enough
            names = ", ".join(line.name for line in curve.lines)
            alt = f"{curve.heading} over {curve.by} of {names}; All figures below has the numbers"
            drawn = embed(draw_curve(curve, colours), alt)
            is_main = curve is curves[0] or curve.heading in main
            (section["charts"] if is_main else more)[curve.title] = drawn
    for title, rows in artefacts.bars(figures):
        more[title] = embed(draw_dots(rows, colours), f"{title} of {', '.join(rows)}, label by label")
    section["confusion"] = _confusion(figures, [*asked.students])
    section["sheets"] = [
        (sheet, strips.legend_bar(sheet.title, sheet.legend), strips.picture_strips(sheet.context),
         {title: strips.picture_strips(rows) for title, rows in sheet.groups.items()})
        for sheet in artefacts.sheets(figures, folder)
    ]  # fmt: skip
    _embeddings(section, asked, artefacts.tensors(folder / "examples.safetensors"), layout)


def _main_curves(figures: Mapping[str, Any], asked: evaluate.Config) -> set[str]:
    """The headings of the first curve of each evaluation."""
    points = {name: metric["point"] for name, metric in figures["metrics"].items() if "point" in metric}
    owned = [[name for name in names if name in points] for names in metrics_of(asked).values()]
    return {points[names[0]]["heading"] for names in owned if names}


def _metrics(figures: Mapping[str, Any]) -> list[list[str]]:
    """The table of all metrics that are no points of a curve."""
    columns = {
        name: metric
        for name, metric in figures["metrics"].items()
        if "point" not in metric and any(name in row for row in figures["table"].values())
    }
    return table.metrics_table(columns, figures["table"])


def _places(curve: artefacts.Curve) -> list[list[str]]:
    """The table of a curve: a row for each line, and for chance."""
    metric = {"percent": curve.percent}
    rows = [[line.name, *(table.joined(line.points.get(at), metric) for at in curve.places)] for line in curve.lines]
    chance = [table.value({"mean": curve.chance.get(at)}, metric) for at in curve.places]
    return [[curve.by, *curve.places], *rows, ["chance", *chance]]


def _confusion(figures: Mapping[str, Any], students: Sequence[str]) -> list[dict[str, Any]]:
    """A picture of each matrix, the students' first; the others are folded."""
    found = []
    for title, rows in figures.get("confusion", {}).items():
        for who, counts in rows.items():
            told = describe_confusion(counts, figures["classes"])
            chart = embed(draw_confusion(counts, figures["classes"]), f"Confusion matrix of {who}, {title}. {told}")
            is_main = any(who == name or who.startswith(f"{name}, ") for name in students)
            found.append({"title": f"{title}: {who}", "told": told, "chart": chart, "main": is_main})
    return sorted(found, key=lambda one: not one["main"])


def _embeddings(section: dict[str, Any], asked: evaluate.Config, examples: Mapping[str, Any], layout: str) -> None:
    """A map of embeddings, and what some queries retrieve."""
    student = next(iter(asked.students.values()))[0]
    unit, transferred = torch.nn.functional.normalize, taught(asked, student)
    query, classes = View(models.load_model(student).modality), section["figures"]["classes"]
    some = spread(len(examples["label"]), SHOWN)
    label = examples["label"][some]
    if classes and len(classes) <= NUMBERED:
        section["classes"] = dict(zip(map(legible, classes), class_colours(len(classes)), strict=True))
    if transferred is None:
        points = _plane(unit(examples["student"][some], dim=1), layout)
        drawn = draw_map(points, label, classes, [next(iter(asked.students))])
        chart = embed(drawn, "Test pairs, as close as their embeddings")
        section["map"] = {"title": "The embedding of unseen pairs", "chart": chart}
        section["bars"] = strips.colour_bars({query.modality.field: query.modality})
        return
    (name, transfer), shards = transferred, Subjects(asked).test
    teacher, seen = transfer.teachers[name], transfer.student.view
    networks = networks_of(transfer.teachers, transfer.student)
    answer = open_views(shards, {teacher.view: transfer.views[teacher.view]}, networks)[teacher.view]
    section["bars"] = strips.colour_bars({seen: query.modality, teacher.view: answer.modality})
    section["retrieval"] = strips.retrieval_strips(
        shards, query, answer, examples["queries"].tolist(), examples["found"].tolist()
    )
    both = torch.cat([((rows := unit(examples[side], dim=1)) - rows.mean(0))[some] for side in ("student", "teacher")])
    drawn = draw_map(_plane(both, layout), label, classes, (seen, teacher.view))
    title = f"Both modalities in one space: ● {seen}, ▲ {teacher.view}, each centred on its own mean"
    chart = embed(drawn, "Test pairs of both modalities, as close as their embeddings")
    section["map"] = {"title": title, "chart": chart}


def _compare(section: dict[str, Any], folder: Path, layout: str) -> None:
    figures = section["figures"]
    section["table"], section["caption"] = table.parts_of(table.rows_of(figures), 8), table.caption_of(figures)
    section["charts"]["Mean and spread"] = embed(draw_rows(figures), "The first metric of the table above, row by row")


def _certify(section: dict[str, Any], folder: Path, layout: str) -> None:
    rows = section["figures"]["rows"]
    section["table"] = table.parts_of(table.certificates_table(section["figures"]))
    section["charts"]["Where the bounds come from"] = embed(draw_shares(rows), "The parts of each bound, stacked")
    section["charts"]["Bound and risks over the sweep"] = embed(
        draw_certificates(rows), "Bound, risk on unseen pairs and risk on certified pairs of each posterior"
    )


def _open(folder: Path, views: Mapping[str, Any], networks: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    shards = open_shards(str(folder), "data")
    return shards, open_views(shards, views, networks or {})


def _plane(rows: Any, layout: str) -> Any:
    """Rows laid out in the plane; the same every time."""
    perplexity = min(30.0, max(2.0, len(rows) / 8))
    maker = TSNE(2, perplexity=perplexity, init="pca", random_state=0) if layout == "tsne" else PCA(2)
    return torch.from_numpy(maker.fit_transform(rows.numpy()))
