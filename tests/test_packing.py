"""From files to shards to views: what is packed of what is there, and in which unit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crossmodal.shards import ShardError, Shards
from crossmodal.streams import open_view
from modalities.depth import Depth
from modalities.rgb import Rgb
from pipelines.__main__ import main

RGB = {"modality": "rgb", "files": "{split}/{key}.jpg"}
DEPTH = {"modality": "depth", "files": "{split}/{key}.png"}


def pack(root: Path, members: dict[str, Any], **options: Any) -> int:
    """Packs what lies below `root` into `root/pairs`."""
    source = {"name": "folder", "root": str(root), "members": members, **options}
    (root / "shards.yaml").write_text(yaml.safe_dump({"source": source, "output": str(root / "pairs")}))
    return main(["shards", str(root / "shards.yaml")])


def write_pictures(root: Path, split: str) -> None:
    (root / split).mkdir()
    (root / split / "a.jpg").write_bytes(Rgb().encode(torch.rand(3, 8, 8)))


def write_distances(root: Path, split: str, metres: torch.Tensor) -> None:
    (root / split / "a.png").write_bytes(Depth().encode(metres))


def test_a_part_without_a_field_is_packed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, "train")
    write_pictures(tmp_path, "test")
    write_distances(tmp_path, "train", torch.full((1, 8, 8), 2.0))
    assert pack(tmp_path, {"rgb": RGB, "depth": DEPTH}, missing="keep") == 0
    test = tmp_path / "pairs" / "test"
    assert f"{test}: 1 pairs in 1 shards, 0.0 MB; none has depth" in capsys.readouterr().out
    assert main(["shards", "--check", str(tmp_path / "pairs")]) == 0
    assert set(Shards.open(tmp_path / "pairs" / "train").manifest.fields) == {"rgb", "depth"}
    with pytest.raises(ShardError, match=f"modality 'depth' reads 'depth', but {test} has rgb"):
        open_view(Shards.open(test), "depth")
