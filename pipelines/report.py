"""One HTML file of finished runs that works offline: figures, curves, pictures, configs, versions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines._config import ConfigError, FieldError, free
from pipelines._measures import HEADINGS
from pipelines._table import caption_of, rows_of

SHOWN = 600  # pairs in a map of embeddings, evenly spread


@dataclass(frozen=True)
class Config:
    """What `crossmodal report` reads."""

    runs: list[str]  # folders of finished runs, in the order in which they are shown
    title: str = "Cross-modal transfer"  # heading of the page
    map: Literal["tsne", "pca"] = "tsne"  # how embeddings are laid out in the plane
    output: str = free("runs/report")  # folder; the page is report.html in it

    def __post_init__(self) -> None:
        if not self.runs:
            raise FieldError("runs", "must name at least one finished run")


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the runs' reports and figures."""
    from pipelines._run import REPORT, digest_of

    problems = [f"runs: {path} holds no finished run" for path in config.runs if not (Path(path) / REPORT).is_file()]
    if problems:
        raise ConfigError(problems)
    return {path: digest_of((Path(path) / REPORT).read_text(encoding="utf-8")) for path in config.runs}


def run(config: Config, path: Path) -> None:
    """Draws and writes the page."""
    import jinja2

    from crossmodal.checkpoint import write
    from pipelines._run import RunFolder, environment, is_main, say

    run = RunFolder.open("report", config, inputs)
    if run.is_done() or not is_main():
        return
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html")
    sections = [_section(Path(folder), config.map) for folder in config.runs]
    run.begin()
    page = run.path / "report.html"
    write(page, template.render(title=config.title, sections=sections, environment=environment(), headings=HEADINGS))
    say(f"{page}: open it in a browser ({page.stat().st_size / 1e6:.1f} MB, no network needed)")
    run.finish({"figures": {"page": page.name}})


def _section(folder: Path, layout: str) -> dict[str, Any]:
    """What the page says of one run."""
    from pipelines._run import REPORT, RUN

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
    if report["pipeline"] in drawers:
        drawers[report["pipeline"]](section, folder, layout)
    return section


def _shards(section: dict[str, Any], folder: Path, layout: str) -> None:
    from pipelines._pictures import draw_pairs, embed_png, spread
    from pipelines._schema import ViewConfig

    split = next(iter(section["figures"]))
    fields = _open(folder / split, {})[0].manifest.fields
    shards, views = _open(folder / split, {name: ViewConfig(spec.modality) for name, spec in fields.items()})
    drawn = draw_pairs(shards, views, spread(len(shards), 8))
    section["pictures"]["Pairs as they are, and in training"] = embed_png(drawn)


def _training(section: dict[str, Any], folder: Path, layout: str) -> None:
    from pipelines._config import load
    from pipelines._pictures import draw_curves, draw_pairs, embed_png, spread
    from pipelines._run import METRICS

    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    for title, phase in (("Curves of the preparation", "prepare"), ("Curves", None)):
        if drawn := [line for line in lines if line.get("phase") == phase]:
            section["pictures"][title] = embed_png(draw_curves(drawn))
    if section["pipeline"] == "transfer":
        from pipelines import transfer
        from pipelines._build import networks_of

        asked = load(transfer.Config, folder / "config.yaml")
        shards, views = _open(Path(asked.data), asked.views, networks_of(asked.teachers, asked.student))
        section["pictures"]["Pairs as each network saw them"] = embed_png(
            draw_pairs(shards, views, spread(len(shards), 8))
        )


def _evaluate(section: dict[str, Any], folder: Path, layout: str) -> None:
    import torch
    from safetensors.torch import load_file

    from crossmodal import export
    from crossmodal.data.views import View
    from pipelines import evaluate
    from pipelines._build import networks_of, open_views
    from pipelines._config import load
    from pipelines._pictures import draw_few_labels, draw_map, draw_retrieval, embed_png, spread

    figures = section["figures"]
    if figures["few_labels"]:
        drawn = draw_few_labels(figures["few_labels"], figures["chance"]["accuracy"])
        section["pictures"]["Accuracy over the number of labels"] = embed_png(drawn)
    examples = load_file(folder / "examples.safetensors")
    asked = load(evaluate.Config, folder / "config.yaml")
    student = next(iter(asked.students.values()))[0]
    unit, taught = torch.nn.functional.normalize, evaluate.taught(asked, student)
    some = spread(len(examples["label"]), SHOWN)
    label = examples["label"][some]
    if taught is None:
        points = _plane(unit(examples["student"][some], dim=1), layout)
        drawn = draw_map(points, label, figures["classes"], [next(iter(asked.students))])
        section["pictures"]["The embedding of unseen pairs"] = embed_png(drawn)
        return
    (name, transfer), shards = taught, evaluate.open_data(asked.data)[1]
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
    from pipelines._pictures import draw_rows, embed_png

    section["table"], section["caption"] = rows_of(section["figures"]), caption_of(section["figures"])
    section["pictures"]["Mean and spread"] = embed_png(draw_rows(section["figures"]))


def _certify(section: dict[str, Any], folder: Path, layout: str) -> None:
    from pipelines._pictures import draw_certificates, draw_shares, embed_png

    rows = section["figures"]["rows"]
    section["pictures"]["Where the bounds come from"] = embed_png(draw_shares(rows))
    section["pictures"]["Bound and risks over the sweep"] = embed_png(draw_certificates(rows))


def _open(folder: Path, views: Mapping[str, Any], networks: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    from pipelines._build import open_shards, open_views

    shards = open_shards(str(folder), "data")
    return shards, open_views(shards, views, networks or {})


def _plane(rows: Any, layout: str) -> Any:
    """Rows laid out in the plane; the same every time."""
    import torch
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(2.0, len(rows) / 8))
    maker = TSNE(2, perplexity=perplexity, init="pca", random_state=0) if layout == "tsne" else PCA(2)
    return torch.from_numpy(maker.fit_transform(rows.numpy()))
