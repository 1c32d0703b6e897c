"""The completion script, in a real bash: commands, options, keys of a config level by level, and values."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.completion.keys import words_of
from pipelines.config.schema import schema_of
from pipelines.registry import PIPELINES, TOOLS, find_pipeline

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if BASH is None:
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("completion") / "crossmodal.bash"
    with path.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


def complete(script: Path, line: str) -> list[str]:
    """What bash offers at the end of a line, as its readline asks for it."""
    asked = 'source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; complete -p crossmodal > /dev/null && _crossmodal; '
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"'
    command = [str(BASH), "-c", asked, "bash", str(script), line]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_first_word_is_any_command(script: Path) -> None:
    offered = complete(script, "crossmodal ")
    assert {*PIPELINES.names(), *TOOLS, "list", "schema"} <= {*offered}
    assert complete(script, "crossmodal tra") == ["transfer"]


def test_keys_come_level_by_level_and_then_their_values(script: Path) -> None:
    line = "crossmodal transfer my.yaml train.lr=0.1 "
    assert {"data=", "train.", "views.", "student.", "seed="} <= {*complete(script, line)}
    assert complete(script, f"{line}train.optim") == ["train.optimiser="]
    assert complete(script, f"{line}train.optimiser=") == ["adamw", "sgd"]  # readline replaces what follows the =
    assert complete(script, f"{line}train.crop.f") == ["train.crop.flip="]
    assert complete(script, f"{line}student.encoder.name=cifar_v") == ["cifar_vgg"]
    assert complete(script, f"{line}nothing") == []


def test_options_of_tools_and_names_of_kinds_are_offered(script: Path) -> None:
    assert complete(script, "crossmodal embed model --t") == ["--to"]
    assert complete(script, "crossmodal --he") == ["--help"]
    assert complete(script, "crossmodal shards --ch") == ["--check"]
    assert complete(script, "crossmodal transfer my.yaml --dry") == ["--dry-run"]
    assert complete(script, "crossmodal list objectives crd") == ["crd"]
    assert complete(script, "crossmodal schema eval") == ["evaluate"]
    assert complete(script, "crossmodal completion ") == ["bash", "zsh"]


def test_where_a_file_is_due_nothing_of_ours_is_offered(script: Path) -> None:
    lines = ["crossmodal transfer ", "crossmodal transfer my", "crossmodal embed ", "crossmodal embed model fi"]
    assert all(complete(script, line) == [] for line in lines)


@pytest.mark.parametrize("name", PIPELINES.names())
def test_every_key_of_the_help_page_is_among_the_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(schema_of(name, find_pipeline(name)))
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out.partition("Fields of the config")[2].partition("Names to choose from")[0]
    keys = re.findall(r"^  ([a-z_][\w.]*)\*?:", page, re.MULTILINE)
    assert keys and not [key for key in keys if not any(word.startswith((f"{key}=", f"{key}.")) for word in words)]


def test_zsh_reads_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert "compdef _crossmodal crossmodal" in script
    if zsh := shutil.which("zsh"):
        (tmp_path / "script").write_text(script)
        subprocess.run([zsh, "-n", str(tmp_path / "script")], check=True)


def test_another_shell_is_refused_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "fish" in (told := capsys.readouterr().err) and "bash" in told and "zsh" in told


@pytest.mark.slow
def test_the_script_needs_no_torch() -> None:
    code = "import sys\nfrom pipelines.__main__ import main\nmain(['completion', 'bash'])"
    code += "\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
