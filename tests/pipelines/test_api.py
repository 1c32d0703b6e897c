"""Pipelines from Python: equal to the command, errors that can be caught, nothing printed, and the run as an object."""

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ENCODER, assert_equal, lines, start_ranks, weights, write

from pipelines.__main__ import main
from pipelines.api import Report, Run, run_pipeline
from pipelines.config.errors import ConfigError, RunError
from pipelines.runs.console import LOG
from pipelines.runs.folder import RunFolder

STEPS = 3


@pytest.fixture(scope="module")
def content(synthetic: Path) -> dict[str, Any]:
    """A pretraining of three steps."""
    return {
        "data": synthetic / "train",
        "views": {"depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
        "encoders": {"depth": {"view": "depth", "encoder": ENCODER}},
        "objectives": {"infonce": {}},
        "monitor": {"pairs": 0, "diagnostics": False},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0, "log_every": 1},
    }


@pytest.fixture(scope="module")
def run(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_pipeline("pretrain", content, f"output={tmp_path_factory.mktemp('api') / 'run'}")


def test_a_mapping_and_a_file_give_the_same_bits_as_the_command(
    run: Run, content: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "config.yaml", {**content, "data": str(content["data"])})
    by_file = run_pipeline("pretrain", str(path), f"output={tmp_path / 'file'}")
    assert main(["pretrain", str(path), f"output={tmp_path / 'command'}"]) == 0
    for folder in (by_file.folder, tmp_path / "command"):
        assert_equal(weights(run.folder), weights(folder))


def test_a_run_has_its_metrics_history_config_and_model(run: Run) -> None:
    assert run.pipeline == "pretrain" and run.metrics["steps"] == STEPS
    assert run.history == lines(run.folder) and [line["step"] for line in run.history] == [1, 2, 3]
    assert run.config["encoders"]["depth"]["encoder"]["width"] == ENCODER["width"]
    assert run.model(device="cpu").card.modality == "depth"
    assert repr(run) == repr(Run(str(run.folder))) and f"steps {STEPS}" in repr(run) and "pretrain" in repr(run)
    assert f"<td>{STEPS}</td>" in run._repr_html_()


def test_a_finished_run_is_opened_and_not_repeated(run: Run, content: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    again = run_pipeline("pretrain", content, f"output={run.folder}")
    assert again.metrics == run.metrics
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_nothing_is_printed_and_the_logger_has_the_lines(
    content: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    monkeypatch.setattr(LOG, "handlers", [Keep()])  # an earlier test may have run the command, which prints
    monkeypatch.setattr(LOG, "level", logging.INFO)
    LOG.manager._clear_cache()  # type: ignore[attr-defined]
    run_pipeline("pretrain", content, f"output={tmp_path / 'run'}")
    assert capfd.readouterr() == ("", "")
    assert any(f"trained, {STEPS} steps" in record.getMessage() for record in records)


def test_all_mistakes_of_a_mapping_are_one_error_and_nothing_is_written(
    content: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_pipeline("pretrain", {**content, "encoder": 1}, "train.lrr=1", f"output={tmp_path / 'run'}")
    assert {problem.partition(";")[0] for problem in caught.value.problems} == {
        "config: encoder is not known",
        "override train.lrr=1: train.lrr is not known",
    }
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_pipeline_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"'transfr' is not known; did you mean 'transfer'"):
        run_pipeline("transfr", {})
    with pytest.raises(ConfigError, match=r"'embed' is a command without a config; in Python use crossmodal\.load"):
        run_pipeline("embed", {})


def test_base_files_of_a_mapping_lie_in_the_working_folder(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "base.yaml", {**content, "data": str(content["data"])})
    monkeypatch.chdir(tmp_path)
    assert run_pipeline("pretrain", {"base": "base.yaml", "output": "runs/one"}).metrics["steps"] == STEPS


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, RunError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_is_an_exception_and_never_an_exit(
    number: signal.Signals,
    error: type[BaseException],
    content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RunFolder, "log", lambda self, line: signal.raise_signal(number))
    with pytest.raises(error):
        run_pipeline("pretrain", content, "train.epochs=50", f"output={tmp_path / 'run'}")


def test_a_run_that_failed_can_be_repeated_while_its_traceback_is_kept(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: RunFolder, report: object) -> None:
        raise RunError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", fail)
        with pytest.raises(RunError) as kept:
            run_pipeline("pretrain", content, f"output={tmp_path / 'run'}")
    assert run_pipeline("pretrain", content, f"output={tmp_path / 'run'}").metrics["steps"] == STEPS
    assert kept.tb is not None


def test_a_folder_without_a_finished_run_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"{tmp_path} holds no run; give the output folder"):
        Run(tmp_path)
    (tmp_path / "run.json").write_bytes((run.folder / "run.json").read_bytes())
    for folder in (tmp_path, tmp_path.parent):  # also where other stages have finished
        with pytest.raises(RunError, match=f"{tmp_path} holds a run that is not finished; the call or command that"):
            Run(folder)
    (tmp_path / "report.json").write_text('{"figures": ')
    with pytest.raises(RunError, match=r"report\.json is damaged \(.*\); delete its folder, and run the same command"):
        _ = Run(tmp_path).metrics


def test_the_folder_of_several_runs_has_them_as_stages(run: Run) -> None:
    whole = Run(run.folder.parent)
    assert [*whole.stages] == ["run"] and whole.metrics == {"run": run.metrics} and whole.pipeline == "run"


def test_a_report_is_a_page_in_a_frame(run: Run, tmp_path: Path) -> None:
    report = run.report()
    assert report.path is None and "<html" in report.html and "infonce" in report.html
    assert report.save(tmp_path / "page.html").read_text(encoding="utf-8") == report.html
    shown = Report('<p title="a&b">')._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;a&amp;b&quot;&gt;"' in shown


def test_a_report_that_a_pipeline_wrote_is_the_report(run: Run, tmp_path: Path) -> None:
    made = run_pipeline("report", {"runs": [str(run.folder)], "map": "pca", "output": tmp_path / "page"})
    assert made.report().path == tmp_path / "page" / "report.html"
    assert made.report().html == (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def two_runs(content: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """A script that runs two pipelines in each of its processes."""
    path = tmp_path / "two.py"
    plain = {**content, "data": str(content["data"])}
    path.write_text(
        "from pipelines.api import run_pipeline\n"
        f"for name in 'ab':\n    run_pipeline('pretrain', {plain!r}, f'output={tmp_path}/{{name}}')\n"
    )
    yield path


@pytest.mark.slow
def test_two_runs_of_one_launch_give_the_same_bits(two_runs: Path) -> None:
    ranks = start_ranks(str(two_runs))
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert_equal(weights(two_runs.parent / "a"), weights(two_runs.parent / "b"))


@pytest.mark.slow
def test_the_import_needs_no_torch() -> None:
    code = "import sys, pipelines.api; print([name for name in ('torch', 'numpy', 'omegaconf') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
