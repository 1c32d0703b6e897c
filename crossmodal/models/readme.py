"""The model card that people read: a README in the format of the Hugging Face Hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmodal.models.hub import PREFIX
from crossmodal.models.model import Model
from crossmodal.models.provenance import Measured, Provenance
from modalities import MODALITIES

LIBRARY = "crossmodal-transfer"
BASELINES = ("random weights", "scratch, all labels", "teacher")  # rows of an evaluation beside the student


def write_readme(model: Model, source: Provenance, *, name: str, license: str | None) -> str:
    """The text: what the model eats and gives, how it was trained, and what it achieves.

    Args:
        model: is described.
        source: the records of its training and its evaluation.
        name: of the model: that of its folder, or "OWNER/NAME" on the hub.
        license: an identifier of the hub, such as "apache-2.0"; None: not stated.
    """
    parts = [_front_matter(model, source, license), f"# {name.rpartition('/')[2]}\n", _usage(model, name),
             _input(model), _training(source), _figures(source.measured)]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _front_matter(model: Model, source: Provenance, license: str | None) -> str:
    tags = [LIBRARY, model.card.modality, model.card.encoder]
    if source.run.get("pipeline") == "transfer":
        tags.append("knowledge-distillation")
    bases = [
        weights.removeprefix(PREFIX).partition("@")[0] for weights in _weights(source) if weights.startswith(PREFIX)
    ]
    lines = [f"library_name: {LIBRARY}", f"pipeline_tag: {_task(model)}", *_listed("tags", tags)]
    lines += [f"license: {license}"] if license else []
    lines += _listed("base_model", bases)
    return "\n".join(["---", *lines, "---", ""])


def _task(model: Model) -> str:
    if model.modality.plane != "picture":
        return "audio-classification" if model.card.classes else "feature-extraction"
    return "image-classification" if model.card.classes else "image-feature-extraction"


def _listed(key: str, values: Sequence[str]) -> list[str]:
    return [f"{key}:", *(f"- {json.dumps(value)}" for value in dict.fromkeys(values))] if values else []


def _usage(model: Model, name: str) -> str:
    address = f"{PREFIX}{name}" if "/" in name else name
    call = "model.predict" if model.card.classes else "model.embed"
    gives = "[(class, probability)]" if model.card.classes else f"[1, {model.encoder.spec.dim}]"
    extension = model.modality.extensions[0]
    return f"""\
```
pip install '{LIBRARY}[hub]'
```

```python
import crossmodal as cm

model = cm.load({address!r})
answer = {call}(["file.{extension}"])  # {gives}; also folders, globs, shards, arrays
```
"""


def _input(model: Model) -> str:
    card, spec = model.card, model.encoder.spec
    maps = ", ".join(" x ".join(map(str, shape)) for shape in spec.maps)
    rows = [
        ("input", MODALITIES.summary(card.modality)),
        ("file extensions", ", ".join(model.modality.extensions)),
        ("sample", f"{' x '.join(map(str, card.shape))} (channels first)"),
        ("encoder", f"{card.encoder} {_inline(card.encoder_options)}"),
        ("embedding", f"{spec.dim} numbers, not of unit length"),
        ("maps", maps),
    ]
    if card.classes:
        rows.append(("classes", ", ".join(card.classes)))
        rows.append(("calibration", "none" if card.temperature is None else f"temperature {card.temperature:.4g}"))
    known = MODALITIES.options(card.modality)
    options = [(name, _inline(value), known[name].comment if name in known else "")
               for name, value in card.modality_options.items()]  # fmt: skip
    return (
        "## Input and output\n\n"
        + _table(("", ""), rows)
        + "\nThe model contains the preprocessing. Its options, with those of the augmentation in training:\n\n"
        + _table(("option", "value", "meaning"), options)
    )


def _training(source: Provenance) -> str:
    run = source.run
    if not run:
        return ""
    inputs: Mapping[str, Any] = run.get("inputs", {})
    environment: Mapping[str, Any] = run.get("environment", {})
    rows = [("pipeline", str(run.get("pipeline", ""))), ("code", f"{LIBRARY} {_version(environment)}"),
            ("date", str(environment.get("written", "")))]  # fmt: skip
    rows += [(f"digest of {key}", f"`{value}`") for key, value in inputs.items()]
    for key, origin in _origins(source).items():
        facts = [str(origin.get("weights", "")), f"licence {origin.get('licence') or 'not stated'}"]
        facts += [f"{name} {origin[name]}" for name in ("revision", "sha256") if origin.get(name)]
        rows.append((f"weights of {key}", ", ".join(facts)))
    config = json.dumps(run.get("config", {}), indent=1, ensure_ascii=False).replace(str(Path.home()), "~")
    return (
        "## Training\n\n"
        + _table(("", ""), rows)
        + f"\nThe same training: save this config as `config.yaml` (JSON is YAML) and call `crossmodal "
        f"{run.get('pipeline', '')} config.yaml`.\n\n<details><summary>config.yaml</summary>\n\n"
        f"```json\n{config}\n```\n\n</details>\n"
    )


def _figures(measured: Measured | None) -> str:
    if measured is None or not measured.figures.get("table"):
        return ""
    figures = measured.figures
    table: Mapping[str, Mapping[str, Any]] = figures["table"]
    others = [who for who in BASELINES if who in table]
    shown = {name: metric for name, metric in figures["metrics"].items() if name in table.get(measured.student, {})}
    rows = [
        (metric["heading"] + " in %" * metric["percent"], *_cells(name, metric, table, measured.student, others))
        for name, metric in shown.items()
    ]
    seeds = figures.get("seeds")
    lines = [line.rstrip() for line in figures.get("verdict", [])]
    return (
        "## Figures\n\n"
        + "".join(f"- {line}\n" for line in lines)
        + f"\nOn {figures.get('test_pairs')} test pairs; mean over {seeds} seed{'s' * (seeds != 1)} where a training "
        "or a draw of labels is repeated, ± standard deviation, [95 % interval].\n\n"
        + _table(("metric", f"this model ({measured.student})", *others, "chance"), rows)
    )


def _cells(
    name: str, metric: Mapping[str, Any], table: Mapping[str, Mapping[str, Any]], student: str, others: Sequence[str]
) -> Iterator[str]:
    factor, digits = (100, 1) if metric["percent"] else (1, 3)
    for who in (student, *others):
        value = table[who].get(name)
        if value is None:
            yield ""
            continue
        spread = f" ± {factor * value['std']:.{digits}f}" if value.get("std") is not None else ""
        interval = value.get("interval")
        span = f" [{', '.join(f'{factor * end:.{digits}f}' for end in interval)}]" if interval else ""
        yield f"{factor * value['mean']:.{digits}f}{spread}{span}"
    yield "" if metric.get("chance") is None else f"{factor * metric['chance']:.{digits}f}"


def _origins(source: Provenance) -> dict[str, Mapping[str, Any]]:
    """Where published weights come from, by config key; runs of earlier versions do not record it."""
    recorded = source.run.get("weights", {})
    return {key: origin for key, origin in recorded.items() if isinstance(origin, Mapping)}


def _weights(source: Provenance) -> list[str]:
    return [str(origin.get("weights", "")) for origin in _origins(source).values()]


def _version(environment: Mapping[str, Any]) -> str:
    return " ".join(
        filter(None, [environment.get("packages", {}).get(LIBRARY, ""), f"({environment.get('commit', '')})"])
    )


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )
