"""Teacher features, once: the windows they are of, their shards, and transfers that read them."""

from pathlib import Path

import pytest

from pipelines import evaluate
from pipelines._config import ConfigError, load


def test_few_labels_always_sees_new_windows(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("{data: {train: a, test: b}, students: {crd: [c]}}")
    with pytest.raises(ConfigError, match=r"few_labels.look.windows must be null, a new window every time, got 2"):
        load(evaluate.Config, tmp_path / "e.yaml", ["few_labels.look.windows=2"])
