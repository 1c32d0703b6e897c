"""The command: what it runs, what it says, where it says it, and with which exit code."""

import ast
import importlib
import os
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch
from modalities import Catalogue
from pipelines import __main__ as command
from pipelines import registry, transfer
from pipelines.config import load
from pipelines.config.errors import SharedError
from pipelines.config.help import _fields, describe_pipeline

PROBE = '''
"""Probe things.

A second paragraph.
"""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.config import at, runtime_only
from pipelines.schemas.common import EncoderConfig, ObjectiveConfig

flags = {"--check": "look at PATH"}

@dataclass(frozen=True)
class Optimiser:
    """How."""

    lr: float = 0.1  # learning rate
    kind: Literal["sgd", "adam"] = "sgd"  # which

@dataclass(frozen=True)
class Config:
    """All."""

    data: str  # folder of shards
    # a comment above, in pairs
    batch: int = 8
    fail: str | None = None  # how to fail
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(lr=0.5))  # what steps
    others: dict[str, Optimiser] = field(  # by name
        default_factory=lambda: {"a": Optimiser()},
    )
    encoder: EncoderConfig | None = None  # a network
    objectives: dict[str, ObjectiveConfig] = field(default_factory=dict)  # losses
    output: str = runtime_only("runs/x")  # folder

def run(config: Config, path: Path) -> None:
    from pipelines.config.errors import RunError
    from modalities.common.catalogue import UnknownNameError

    match config.fail:
        case "key":
            with at("optimiser"):
                raise ValueError("lr must be above 0, got -1.0")
        case "run":
            raise RunError("the loss is not finite at step 7")
        case "file":
            Path("absent/file").read_text()
        case "module":
            import not_installed_anywhere
        case "ours":
            raise UnknownNameError("encoder 'x' is not known")
        case "value":
            from modalities import MODALITIES
            MODALITIES.get("nothing")
        case "defect":
            {}["a defect"]
        case "foreign":
            raise ValueError("raised by nobody's code of ours")
        case "stop":
            raise KeyboardInterrupt
        case "exit":
            raise SystemExit(5)
    print("ran", config.data, config.batch, path)

def inspect(flag: str, path: Path) -> int:
    print("inspected", flag, path)
    return 1
'''


@pytest.fixture(autouse=True)
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "throwaway_pipelines"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "probe.py").write_text(PROBE)
    (tmp_path / "x.yaml").write_text("data: shards\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "PIPELINES", Catalogue("throwaway_pipelines", "", "pipeline"))
    monkeypatch.delenv("RANK", raising=False)
    for name in [name for name in sys.modules if name.startswith("throwaway_pipelines")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = command.main(words)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_a_pipeline_runs_with_its_config_and_the_configs_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "probe", "x.yaml", "batch=3") == (0, "ran shards 3 x.yaml\n", "")


def test_a_flag_inspects_a_path_and_gives_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "probe", "--check", "some/path") == (1, f"inspected --check {Path('some/path')}\n", "")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["prob"],
            "pipeline 'prob' is not known; did you mean 'probe'? (known: probe, list, schema, ",
        ),
        (["probe"], "expected crossmodal probe CONFIG [key=value ...], got no CONFIG; --help shows its fields"),
        (["probe", "a=1"], "expected crossmodal probe CONFIG [key=value ...], got a=1 instead of CONFIG"),
        (
            ["probe", "--chek", "x"],
            "probe: flag '--chek' is not known; did you mean '--check'? (known: --check, --help)",
        ),
        (["probe", "--check"], "expected crossmodal probe --check PATH, got 0 paths"),
        (["probe", "no.yaml"], "no.yaml: cannot be read: No such file or directory"),
        (
            ["probe", "x.yaml", "batc=3"],
            "override batc=3: batc is not known; did you mean 'batch'? (known: data, batch",
        ),
        (["list", "encoder"], "crossmodal list: 'encoder' is not known; did you mean 'encoders'? (known: "),
        (
            ["list"],
            "crossmodal list: expected one of modalities, encoders, objectives, multiview, sources, evaluations",
        ),
        (["list", "objectives", "cdr"], "objective 'cdr' is not known; did you mean 'crd'? (known: "),
        (
            ["lst"],
            "pipeline 'lst' is not known; did you mean 'list'? (known: probe, list, schema, ",
        ),
        (["list", "pipelines", "list"], "list is a command without a config; pipelines are probe"),
        (["schema", "embed"], "embed is a command without a config; pipelines are probe"),
        (["list", "pipelines", "prob"], "pipeline 'prob' is not known; did you mean 'probe'?"),
        (["probe", "x.yaml", "fail=key"], "optimiser: lr must be above 0, got -1.0\n"),
    ],
)
def test_what_is_wrong_with_a_command_is_on_stderr_with_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(problem)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("run", "the loss is not finite at step 7\n"),
        ("file", "[Errno 2] No such file or directory: 'absent/file'\n"),
        ("module", "No module named 'not_installed_anywhere'\n"),
        ("ours", "encoder 'x' is not known\n"),
        ("value", "modality 'nothing' is not known"),
    ],
)
def test_a_failed_run_says_why_without_a_traceback_with_code_1(
    capsys: pytest.CaptureFixture[str], fail: str, message: str
) -> None:
    code, out, err = said(capsys, "probe", "x.yaml", f"fail={fail}")
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert "Traceback" not in err


@pytest.mark.parametrize(("fail", "error"), [("defect", KeyError), ("foreign", ValueError)])
def test_a_defect_keeps_its_traceback(fail: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        command.main(["probe", "x.yaml", f"fail={fail}"])


def test_a_plain_value_error_of_ours_is_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    caught = None
    try:
        exec(compile("raise ValueError('x')", "f", "exec"), {"__name__": "crossmodal.objectives.crd"})
    except ValueError as error:
        caught = error
    assert caught is not None
    assert command._is_users(caught)


def test_an_interrupt_is_130_and_an_exit_keeps_its_code() -> None:
    assert command.main(["probe", "x.yaml", "fail=stop"]) == 130
    assert command.main(["probe", "x.yaml", "fail=exit"]) == 5


@pytest.mark.parametrize(("fail", "code"), [("key", 2), ("run", 1), ("defect", 1)])
def test_debug_shows_the_traceback_and_keeps_the_code(capsys: pytest.CaptureFixture[str], fail: str, code: int) -> None:
    given, _, err = said(capsys, "probe", "x.yaml", f"fail={fail}", "--debug")
    assert given == code
    assert err.startswith("Traceback")


def test_only_rank_0_says_what_all_ranks_find(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SharedError(["batc is not known"])

    monkeypatch.setattr("pipelines.api.load", refuse)
    assert said(capsys, "probe", "x.yaml") == (2, "", "batc is not known\n")
    monkeypatch.setenv("RANK", "1")
    assert said(capsys, "probe", "x.yaml") == (2, "", "")


def test_a_rank_that_finds_a_mistake_alone_is_heard(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    code, _, err = said(capsys, "probe", "x.yaml", "batc=3")
    assert code == 2
    assert err.startswith("rank 1: override batc=3: batc is not known")


def test_a_plug_in_with_the_name_of_a_command_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "embed.py").write_text('"""Mine."""\n')
    monkeypatch.setenv("CROSSMODAL_PLUGINS", str(tmp_path))
    assert command.main(["embed", "mine.yaml"]) == 2
    assert "embed.py in CROSSMODAL_PLUGINS has the name of a command; rename the file" in capsys.readouterr().err


def test_a_rank_that_fails_alone_is_heard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert said(capsys, "probe", "x.yaml", "fail=run") == (1, "", "rank 3: the loss is not finite at step 7\n")


def test_many_problems_stay_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "probe", "x.yaml", *(f"wrong{number}=1" for number in range(30)))
    assert code == 2
    assert err.count("\n") == 21
    assert err.endswith("... and 10 more\n")


def test_help_names_the_grammar_and_every_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--help")
    assert code == 0
    assert "crossmodal PIPELINE CONFIG [key=value ...]" in out
    assert out.endswith("  probe         Probe things.\n")


def test_no_words_are_answered_with_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys)
    assert (code, out) == (2, "")
    assert "crossmodal PIPELINE CONFIG" in err


def test_schema_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "schema", "--help")
    assert code == 0 and "print the JSON Schema of its config: " in out


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["--version", "extra"]):
        assert said(capsys, *words) == (0, f"crossmodal-transfer {version('crossmodal-transfer')}\n", "")


@pytest.mark.parametrize("words", [["probe", "--help"], ["list", "pipelines", "probe"], ["probe", "x.yaml", "-h"]])
def test_a_pipelines_help_has_every_field_with_type_default_and_comment(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, _ = said(capsys, *words)
    lines = {" ".join(line.split()) for line in out.splitlines()}
    assert code == 0
    assert {
        "crossmodal probe --check PATH look at PATH",
        "Probe things.",
        "A second paragraph.",
        "data*: str folder of shards",
        "batch: int = 8 a comment above, in pairs",
        "fail: str | None = null how to fail",
        "optimiser: what steps",
        "optimiser.lr: float = 0.5 learning rate",
        'optimiser.kind: sgd | adam = "sgd" which',
        'others: dict[str, Optimiser] = {"a": {"lr": 0.1, "kind": "sgd"}}',
        "by name",
        "others.<name>.lr: float = 0.1 learning rate",
        "encoder: EncoderConfig | None = null a network",
        "encoder.<option> options of encoder.name",
        "objectives.<name>.weight: float = 1.0 factor in the total loss; at least 0",
        'output: str = "runs/x" folder',
    } <= lines
    assert any(line.startswith("objectives.<name>.name: str = its key ") for line in lines)
    assert any(line.startswith(f"objectives {OBJECTIVES.names()[0]}, ") for line in lines)


def test_every_pipeline_of_ours_has_help_with_a_comment_for_every_field() -> None:
    names = Catalogue("pipelines", "", "pipeline", beside=("api", "registry")).names()
    assert names
    for name in names:
        pipeline = importlib.import_module(f"pipelines.{name}")
        assert describe_pipeline(name, pipeline)
        silent = [head for head, comment in _fields(pipeline.Config) if not comment]
        assert not silent, f"{name}: {', '.join(silent)}"


def test_list_shows_entries_with_options_defaults_and_comments(capsys: pytest.CaptureFixture[str]) -> None:
    _, everything, _ = said(capsys, "list", "objectives")
    code, one, _ = said(capsys, "list", "objectives", "crd")
    assert code == 0
    assert one.strip() in everything
    assert len(one) < len(everything)
    assert "temperature: float = 0.07 divides cosines" in " ".join(one.split())
    assert "negatives.momentum: float = 0.5 bank: share of a row" in " ".join(one.split())


@pytest.mark.parametrize("kind", ["modalities", "encoders", "objectives", "sources", "pipelines"])
def test_list_takes_every_kind_and_imports_no_entry(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    before = set(sys.modules)
    code, out, _ = said(capsys, "list", kind)
    assert code == 0
    assert max(len(line) for line in [*out.splitlines(), ""]) <= 120
    assert not {name for name in set(sys.modules) - before if name.split(".")[-1] in out.split()}


def run_alone(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One command in its own process, which must not import torch."""
    code = textwrap.dedent(f"""
        import sys
        from modalities import Catalogue
        import pipelines.__main__ as command
        from pipelines import registry
        registry.PIPELINES = Catalogue("throwaway_pipelines", "", "pipeline")
        code = command.main({list(words)!r})
        heavy = {{"torch", "numpy", "accelerate", "torchvision", "jaxtyping"}} & set(sys.modules)
        assert not heavy, heavy
        sys.exit(code)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


@pytest.mark.slow
def test_a_config_error_needs_no_torch(probe: Path) -> None:
    (probe / "wrong.yaml").write_text("data: ${absent}\nbatc: 3\n")
    done = run_alone(probe, "probe", "wrong.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == ["wrong.yaml:1", "wrong.yaml:2"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["list", "--help"], ["list", "encoders", "-h"]])
def test_list_says_what_it_takes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, *words)
    assert code == 0 and out.startswith("crossmodal list KIND ") and "modalities, encoders, objectives" in out


@pytest.mark.parametrize("words", [["--help"], ["probe", "--help"], ["list", "objectives"], ["--version"]])
def test_help_needs_no_torch(probe: Path, words: list[str]) -> None:
    done = run_alone(probe, *words)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_pipelines_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "pipelines", "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pipeline 'nothing' is not known")


def test_no_pipeline_of_ours_imports_torch_before_it_runs() -> None:
    code = (
        "import importlib, sys; from pipelines.registry import PIPELINES\n"
        "names = PIPELINES.names()\n"
        "for name in names: importlib.import_module(f'pipelines.{name}').Config\n"
        "print({'torch', 'numpy', 'accelerate'} & {*sys.modules}, bool(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True\n"


MINE = """
from crossmodal.objectives import Objective, Outcome

class Mine(Objective):
    \"\"\"Squared distance, mine.\"\"\"

    def __init__(self, student, teacher, pairs, *, power: float = 2.0):  # of the distance
        super().__init__()
        self.power = power

    def forward(self, student, teacher, batch):
        return Outcome((student.embedding - teacher.embedding).abs().pow(self.power).mean())
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own objectives."""
    monkeypatch.setenv("CROSSMODAL_PLUGINS", str(tmp_path))
    (tmp_path / "objectives").mkdir()
    return tmp_path / "objectives"


def test_entries_of_the_users_own_folder_are_entries(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plugins / "mine.py").write_text(MINE)
    assert command.main(["list", "objectives", "mine"]) == 0
    assert "Squared distance, mine." in capsys.readouterr().out
    assert {"crd", "mine"} <= {*OBJECTIVES.names()} and OBJECTIVES.get("crd").__name__ == "CRD"
    (plugins / "x.yaml").write_text("""
        data: x
        views: {a: {modality: rgb}}
        teachers: {}
        student: {view: a, encoder: convnet}
        objectives: {mine: {power: 3}}
    """)
    config = load(transfer.Config, plugins / "x.yaml")
    assert config.objectives["mine"].options == {"power": 3.0}
    spec = Spec(4, (), 0)
    ours, theirs = (Features(torch.full((2, 4), value), (), None) for value in (1.0, -1.0))
    objective = OBJECTIVES.get("mine")(spec, spec, 10, power=3.0)
    assert objective(ours, theirs, Batch({}, torch.arange(2), torch.tensor([0, 1]))).loss == 8


def test_an_entry_of_the_users_own_that_is_none_is_named(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plugins / "mine.py").write_text(MINE.replace("(Objective)", "(CRD)"))
    assert command.main(["list", "objectives"]) == 1
    assert f"{plugins / 'mine.py'} must hold one class of base Objective, got 0" in capsys.readouterr().err
    (plugins / "mine.py").rename(plugins / "crd.py")
    assert command.main(["list", "objectives"]) == 1
    assert f"{plugins / 'crd.py'} has the same name as" in capsys.readouterr().err


def test_names_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.__main__ import main

    assert main(["a\x1b[31mb\udcff\x9bc\u00e9.yaml"]) == 2
    told = capsys.readouterr().err
    assert "a\\x1b[31mb\\udcff\\x9bc\u00e9.yaml" in told and "\x1b" not in told


def test_all_that_is_printed_of_a_run_is_printable() -> None:
    """Every print of the pipelines but the command's own help, which holds no name of a user's."""
    found = []
    for path in sorted((Path(__file__).parents[2] / "pipelines").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append((path.name, ast.unparse(node.args[0])))
    assert len(found) > 10
    plain = [text for name, text in found if not text.startswith("printable(") and name != "__main__.py"]
    assert plain == []
