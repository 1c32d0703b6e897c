"""Manifests: options of stored bytes that are numbers, text or lists of text, and a digest that never changes."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from crossmodal.data.manifest import MANIFEST, Field, Manifest, Shard, ShardError, open_field, read_manifest
from modalities.labels import Labels

SHARD = Shard("000000.tar", 2, 10240, "5" * 64)
NAMES = ("wall", "floor", "no")


def manifest_of(field: Field) -> Manifest:
    statistics: dict[str, dict[str, float]] = {"x": {}}
    return Manifest(2, ["cat"], {"x": field}, [SHARD], statistics)


def test_the_digest_is_that_of_this_text() -> None:
    depth = manifest_of(Field("depth", "png", {"scale_m": 0.001, "invalid": 0}))
    text = (
        '[{"x": {"extension": "png", "modality": "depth", "stored": {"invalid": 0, "scale_m": 0.001}}}, ["cat"], '
        f'["{"5" * 64}"]]'
    )
    assert depth.digest == hashlib.sha256(text.encode()).hexdigest()
    labels = manifest_of(Field("labels", "png", {"classes": NAMES, "ignore": 255, "colours": ()}))
    text = (
        '[{"x": {"extension": "png", "modality": "labels", "stored": {"classes": ["wall", "floor", "no"], '
        f'"colours": [], "ignore": 255}}}}}}, ["cat"], ["{"5" * 64}"]]'
    )
    assert labels.digest == hashlib.sha256(text.encode()).hexdigest()


def test_text_and_lists_of_text_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = manifest_of(Field("labels", "png", {"classes": NAMES, "ignore": 255, "colours": (), "other": "text"}))
    (tmp_path / MANIFEST).write_text(json.dumps(asdict(written)))
    read = read_manifest(tmp_path)
    assert read == written and read.digest == written.digest


def test_a_field_of_labels_opens_with_its_classes() -> None:
    field = Field("labels", "png", {"classes": NAMES, "ignore": 0, "colours": ()})
    assert open_field("labels", field) == Labels(classes=NAMES, ignore=0)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"ignore": True}, "fields.x.stored.ignore must be a finite number, got True"),
        ({"classes": {"a": 1}}, "fields.x.stored.classes must be a finite number, got {'a': 1}"),
        ({"classes": ["a", 1]}, "fields.x.stored.classes.1 must be text in Unicode, got 1"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, stored: dict[str, object], message: str) -> None:
    content = asdict(manifest_of(Field("labels", "png", {})))
    content["fields"]["x"]["stored"] = stored
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"classes": "wall"}, "stored.classes must be a list, got 'wall'"),
        ({"classes": 3}, "stored.classes must be a list, got 3"),
        ({"ignore": 1.5}, "stored.ignore must be a whole number from 0 to .*, got 1.5"),
        ({"ignore": None}, "stored.ignore must be a whole number from 0 to .*, got None"),
        ({"ignore": ("a",)}, "stored.ignore must be a whole number from 0 to .*, got "),
        ({"classes": ("a",)}, "stored: classes must be at least two names"),
    ],
)
def test_options_of_another_type_than_the_modality_s_are_refused(stored: dict[str, object], message: str) -> None:
    whole: dict[str, object] = {"classes": NAMES, "ignore": 255, "colours": ()}
    with pytest.raises(ShardError, match=f"field 'labels': {message}"):
        open_field("labels", Field("labels", "png", {**whole, **stored}))  # type: ignore[arg-type]
