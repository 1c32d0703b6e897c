"""The script that measures everything on a GPU runs, on a CPU and small."""

import json
from pathlib import Path

import pytest
from commands import run


@pytest.mark.slow
def test_the_script_measures_every_row_and_writes_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    folder = Path(__file__).parents[1] / "benchmarks"
    script.write_text(f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport gpu\ngpu.run()\n")
    done = run(str(script), "--small", "--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    rows = {row.pop("what"): row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert [name.split(",")[0] for name in rows] == ["CRD"] * 4 + ["SimCLR"] + ["transfer"] * 2
    assert all(row["times_as_fast"] > 0 and row["launches"] > 0 for name, row in rows.items() if "transfer" not in name)
    assert all(row["of_bare_compute"] > 0 for name, row in rows.items() if "transfer" in name)
    assert all(name in done.stdout for name in rows)
