"""docs/adding.md, followed literally: its files are written into a plug-in folder and its configs are run."""

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.config.fields import CATALOGUES

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"
PLUGINS = "my_lab"


def read_sections() -> dict[str, list[tuple[str, str]]]:
    """The page's code blocks (language, code) by the file that the heading names; "" for those before the first."""
    first, *rest = re.split(r"^## .+: `(\S+\.py)`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = {"": first} | dict(zip(rest[::2], rest[1::2], strict=True))
    return {file: re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) for file, text in sections.items()}


SECTIONS = read_sections()
KINDS = {catalogue.package.rpartition(".")[2]: kind for kind, catalogue in CATALOGUES.items()} | {
    "pipelines": "pipelines"
}
FILES = [file for file in SECTIONS if file]


def command_of(code: str) -> list[str] | None:
    """The command that a block's first line gives: ["crossmodal", "shards", "scenes.yaml"]; None for an entry."""
    first = re.match(r"# ((?:crossmodal|python) .+)\n", code)
    return shlex.split(first[1]) if first else None


def entries_of(file: str) -> list[str]:
    return [code for language, code in SECTIONS[file] if language == "python" and command_of(code) is None]


def follow(section: str) -> list[list[str]]:
    """Writes and runs the blocks of a section, from top to bottom, in the working folder; gives the commands."""
    commands = []
    for language, code in SECTIONS[section]:
        if words := command_of(code):
            Path(words[-1]).write_text(code, encoding="utf-8")
            commands.append(words)
        elif language == "sh":
            commands += [shlex.split(line) for line in code.splitlines() if not line.startswith("export ")]
    for program, *words in commands:
        if program == "python":
            runpy.run_path(words[0])
        else:
            assert main(words) == 0, words
    return commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the page's plug-ins, its shards and its teacher."""
    folder = tmp_path_factory.mktemp("adding")
    for file in FILES:
        path = folder / PLUGINS / Path(file).parent.name / Path(file).name
        path.parent.mkdir(parents=True)
        path.write_text(entries_of(file)[0], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CROSSMODAL_PLUGINS", PLUGINS)
        assert len(follow("")) >= 3
        yield folder


def test_the_page_has_a_section_for_every_kind_of_entry() -> None:
    assert sorted(Path(file).parent.name for file in FILES) == sorted(KINDS)


@pytest.mark.parametrize("file", FILES)
def test_an_addition_is_one_file(file: str) -> None:
    assert len(entries_of(file)) == 1
    assert not (PAGE.parents[1] / file).exists(), "an entry of the page must not hide one of ours"


@pytest.mark.parametrize("file", FILES)
def test_an_addition_imports_public_modules_only(file: str) -> None:
    modules = [
        f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(entries_of(file)[0]))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert modules and not [name for name in modules if any(part.startswith("_") for part in name.split("."))]


def test_the_page_names_the_plug_in_folder() -> None:
    assert f"export CROSSMODAL_PLUGINS={PLUGINS}\n" in "".join(code for _, code in SECTIONS[""])


@pytest.mark.parametrize("file", FILES)
def test_an_addition_is_listed_with_every_option_explained(
    folder: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, name = KINDS[Path(file).parent.name], Path(file).stem
    assert main(["list", kind, name]) == 0
    assert name in capsys.readouterr().out
    if kind != "pipelines":
        assert all(option.comment for option in CATALOGUES[kind].options(name).values())


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_an_addition_runs_with_the_configs_beside_it(folder: Path, file: str) -> None:
    name, commands = Path(file).stem, follow(file)
    configs = [code.partition("\n")[2] for _, code in SECTIONS[file] if command_of(code)]
    assert name in [words[1] for words in commands] or any(re.search(rf"\b{name}\b", config) for config in configs)
