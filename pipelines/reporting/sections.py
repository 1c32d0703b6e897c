"""The sections of the page, one for each run: metrics, curves and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from crossmodal import export
from crossmodal.data.views import View
from pipelines.building.data import networks_of, open_shards, open_views
from pipelines.config import ConfigError, load
from pipelines.evaluation.students import taught
from pipelines.evaluation.subjects import Subjects
from pipelines.reporting import artefacts
from pipelines.reporting.pictures import (
    colours_of,
    draw_bars,
    draw_certificates,
    draw_curve,
    draw_curves,
    draw_map,
    draw_pairs,
    draw_retrieval,
    draw_rows,
    draw_shares,
    embed_png,
    spread,
)
from pipelines.reporting.table import caption_of, rows_of
from pipelines.runs.folder import METRICS, REPORT, RUN
from pipelines.schemas import evaluate, transfer
from pipelines.schemas.common import ViewConfig

SHOWN = 600  # pairs in a map of embeddings, evenly spread


def describe_run(folder: Path, layout: str) -> dict[str, Any]:
    """The section of the page on one run."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    started = json.loads((folder / RUN).read_text(encoding="utf-8"))
    section = {
        "name": str(folder),
        "pipeline": report["pipeline"],
        "figures": report["figures"],
        "dropped": report.get("dropped", 0),  # of shards: pairs
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "started": started["environment"],
        "written": report["environment"]["written"],
        "pictures": {},
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
    if report["pipeline"] in ("evaluate", "compare") and not isinstance(report["figures"].get("metrics"), dict):
        again = {"evaluate": "crossmodal evaluate with a new output", "compare": "crossmodal compare"}
        raise ConfigError([f"runs: {folder} was written by an earlier version, whose report has no headings; run "
                           f"{again[report['pipeline']]} again"])  # fmt: skip
    if report["pipeline"] in drawers:
        drawers[report["pipeline"]](section, folder, layout)
    return section


def _shards(section: dict[str, Any], folder: Path, layout: str) -> None:
    split = next(iter(section["figures"]))
    fields = _open(folder / split, {})[0].manifest.fields
    shards, views = _open(folder / split, {name: ViewConfig(spec.modality) for name, spec in fields.items()})
    drawn = draw_pairs(shards, views, spread(len(shards), 8))
    section["pictures"]["Pairs as they are, and in training"] = embed_png(drawn)


def _training(section: dict[str, Any], folder: Path, layout: str) -> None:
    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    for title, phase in (("Curves of the preparation", "prepare"), ("Curves", None)):
        if drawn := [line for line in lines if line.get("phase") == phase]:
            section["pictures"][title] = embed_png(draw_curves(drawn))
    if section["pipeline"] == "transfer":
        asked = load(transfer.Config, folder / "config.yaml", stored=True)
        shards, views = _open(Path(asked.data), asked.views, networks_of(asked.teachers, asked.student))
        section["pictures"]["Pairs as each network saw them"] = embed_png(
            draw_pairs(shards, views, spread(len(shards), 8))
        )


def _evaluate(section: dict[str, Any], folder: Path, layout: str) -> None:
    figures = section["figures"]
    section["columns"] = {
        name: metric
        for name, metric in figures["metrics"].items()
        if "point" not in metric and any(name in row for row in figures["table"].values())
    }
    curves = [*artefacts.curves(figures)]
    colours = colours_of([*figures["table"], *(line.network for curve in curves for line in curve.lines)])
    section["curves"] = [  # of one place, a table is enough
        (curve, embed_png(draw_curve(curve, colours)) if len(curve.places) > 1 else "") for curve in curves
    ]
    for title, bars in artefacts.bars(figures):
        section["pictures"][title] = embed_png(draw_bars(bars, colours))
    section["sheets"] = [*artefacts.sheets(figures, folder)]
    examples = artefacts.tensors(folder / "examples.safetensors")
    asked = load(evaluate.Config, folder / "config.yaml", stored=True)
    student = next(iter(asked.students.values()))[0]
    unit, transferred = torch.nn.functional.normalize, taught(asked, student)
    some = spread(len(examples["label"]), SHOWN)
    label = examples["label"][some]
    if transferred is None:
        points = _plane(unit(examples["student"][some], dim=1), layout)
        drawn = draw_map(points, label, figures["classes"], [next(iter(asked.students))])
        section["pictures"]["The embedding of unseen pairs"] = embed_png(drawn)
        return
    (name, transfer), shards = transferred, Subjects(asked).test
    teacher = transfer.teachers[name]
    networks = networks_of(transfer.teachers, transfer.student)
    answer = open_views(shards, {teacher.view: transfer.views[teacher.view]}, networks)[teacher.view]
    query = View(export.load_model(student).modality)
    drawn = draw_retrieval(shards, query, answer, examples["queries"].tolist(), examples["found"].tolist())
    section["pictures"]["Retrieval on unseen pairs: framed where the right partner is found"] = embed_png(drawn)
    both = torch.cat([((rows := unit(examples[side], dim=1)) - rows.mean(0))[some] for side in ("student", "teacher")])
    drawn = draw_map(_plane(both, layout), label, figures["classes"], (transfer.student.view, teacher.view))
    section["pictures"]["Both modalities in one space, each centred on its own mean"] = embed_png(drawn)


def _compare(section: dict[str, Any], folder: Path, layout: str) -> None:
    section["table"], section["caption"] = rows_of(section["figures"]), caption_of(section["figures"])
    section["pictures"]["Mean and spread"] = embed_png(draw_rows(section["figures"]))


def _certify(section: dict[str, Any], folder: Path, layout: str) -> None:
    rows = section["figures"]["rows"]
    section["pictures"]["Where the bounds come from"] = embed_png(draw_shares(rows))
    section["pictures"]["Bound and risks over the sweep"] = embed_png(draw_certificates(rows))


def _open(folder: Path, views: Mapping[str, Any], networks: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    shards = open_shards(str(folder), "data")
    return shards, open_views(shards, views, networks or {})


def _plane(rows: Any, layout: str) -> Any:
    """Rows laid out in the plane; the same every time."""
    perplexity = min(30.0, max(2.0, len(rows) / 8))
    maker = TSNE(2, perplexity=perplexity, init="pca", random_state=0) if layout == "tsne" else PCA(2)
    return torch.from_numpy(maker.fit_transform(rows.numpy()))
