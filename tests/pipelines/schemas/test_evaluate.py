"""The config of an evaluation: names of columns, what is refused, and keys of earlier versions."""

from pathlib import Path

import pytest

from pipelines.config import ConfigError, FieldError, load
from pipelines.schemas.evaluate import Config, EvaluationConfig

BEGIN = "data: {train: a, test: b}\nstudents: {s: [run]}\n"
OLD = f"""{BEGIN}quantity: {{fact: pose, columns: [3, 7], unit: m, neighbours: 3}}
diagnostics: null
retrieve_at: [1, 2]
neighbours: 7
"""


def read(folder: Path, text: str, *, stored: bool = False) -> Config:
    (folder / "config.yaml").write_text(text)
    return load(Config, folder / "config.yaml", stored=stored)


def test_old_keys_are_refused_with_their_new_place_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, OLD)
    assert [problem.partition("config.yaml:")[2] for problem in caught.value.problems] == [
        "3: quantity is now metrics.regression",
        "4: diagnostics is now metrics.diagnostics",
        "5: retrieve_at is now metrics.retrieval.at",
        "6: neighbours is now metrics.classification.neighbours",
    ]


def test_the_config_of_an_earlier_run_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, OLD, stored=True).metrics == {
        "classification": EvaluationConfig("classification", {"neighbours": 7}),
        "regression": EvaluationConfig("regression", {"fact": "pose", "columns": (3, 7), "unit": "m", "neighbours": 3}),
        "retrieval": EvaluationConfig("retrieval", {"at": (1, 2)}),
    }


def test_metrics_of_ones_own_replace_the_usual_ones(tmp_path: Path) -> None:
    assert list(read(tmp_path, BEGIN).metrics) == ["classification", "retrieval"]
    assert list(read(tmp_path, f"{BEGIN}metrics: {{diagnostics: }}").metrics) == ["diagnostics"]


def test_columns_are_those_of_the_evaluations_and_of_few_labels(tmp_path: Path) -> None:
    columns = read(tmp_path, f"{BEGIN}metrics: {{classification: }}\nfew_labels: {{labels: [2, null]}}").columns()
    assert list(columns) == [
        "knn",
        "probe",
        "probe.balanced",
        "classifier",
        "frozen@2",
        "frozen@all",
        "fine-tuned@2",
        "fine-tuned@all",
    ]
    assert columns["frozen@2"].heading == "frozen, 2 labels a class"
    assert columns["fine-tuned@all"].heading == "fine-tuned, all labels"
    few = read(tmp_path, f"{BEGIN}metrics: {{}}\nfew_labels: {{labels: [2], whole: scratch}}")
    assert list(few.columns()) == ["frozen@2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metrics: {a: {name: classification}, b: {name: classification}}", "metrics.b has a metric 'knn', as has a;"),
        ("metrics: {retrieval: {at: []}}", "metrics.retrieval cannot be built: at must be one or more"),
    ],
)
def test_metrics_of_one_name_and_wrong_options_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FieldError, match=words):
        read(tmp_path, BEGIN + text).columns()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metrics: {}\nfew_labels: null", "metrics must name at least one evaluation where few_labels is null"),
        ("metrics: {regression: {fact: pose}}", "metrics.regression.columns must be given for evaluation 'regression'"),
        ("metrics: {clasification: }", "evaluation 'clasification' is not known; did you mean 'classification'"),
        ("metrics: {classification: {neighbors: 3}}", "neighbors is not known; did you mean 'neighbours'"),
    ],
)
def test_what_is_wrong_with_metrics_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, BEGIN + text)
