"""What the README and the docs show is what there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crossmodal import OBJECTIVES
from pipelines import run, transfer
from pipelines.__main__ import main
from pipelines.config import load
from pipelines.registry import find_pipeline

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("[!_]*.yaml"))  # one that begins with an underscore is a part of others
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "configs").rglob("*.md"),
]


def shown(path: Path) -> str:
    """As commands name it."""
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readmes_transfer_is_one(tmp_path: Path) -> None:
    (tmp_path / "readme.yaml").write_text(blocks(ROOT / "README.md", "yaml")[-1])
    config = load(transfer.Config, tmp_path / "readme.yaml")
    assert (config.teachers["rgb"].view, config.student.view) == ("rgb", "depth")


def test_the_readmes_own_recording_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "readme.yaml").write_text(blocks(ROOT / "README.md", "yaml")[0])
    assert load(find_pipeline("shards").Config, tmp_path / "readme.yaml").source.name == "folder"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_names_a_pipeline_and_a_config_that_fit(page: Path) -> None:
    text = re.sub(r"^\$ .*$", "", page.read_text(), flags=re.MULTILINE)  # mistakes on purpose; see below
    for name, config, rest in re.findall(r"(?:crossmodal|-m pipelines) (\w+) (configs/\S+\.yaml)([^#\n`]*)", text):
        overrides = [word for word in rest.split() if re.match(r"[\w.]+=[\w/.-]+$", word)]
        load(find_pipeline(name).Config, ROOT / config, overrides)


def test_every_teacher_of_the_page_is_one(tmp_path: Path) -> None:
    whole, *lines = blocks(ROOT / "docs" / "teachers.md", "yaml")
    (tmp_path / "room.yaml").write_text(whole)
    assert load(transfer.Config, tmp_path / "room.yaml").teachers["rgb"].encoder is None
    networks = {key: node for block in lines for key, node in yaml.safe_load(block).items()}
    assert len(networks) > 10
    student = networks.pop("student")
    config = yaml.safe_load(whole) | {"teachers": networks, "student": student}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(config))
    assert load(transfer.Config, tmp_path / "all.yaml").teachers.keys() == networks.keys()


def test_the_readmes_mistake_is_answered_as_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command, answer = re.findall(r"^\$ crossmodal (.*)\n(.*)", (ROOT / "README.md").read_text(), re.MULTILINE)[0]
    assert main(command.split()) == 2
    assert capsys.readouterr().err.startswith(answer.partition(" (known")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)  # code calls what it indexes
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_page_is_in_the_sites_navigation_and_links_to_pages_of_the_site_only() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)) == sorted(pages)
    for page in pages:
        text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"\]\((\.\./[^)]*)\)", text), page


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="an optional package: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fonts.googleapis" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_table_of_objectives_has_all_of_them() -> None:
    page = (ROOT / "docs" / "objectives.md").read_text().partition("## Several teachers")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == OBJECTIVES.names()


def test_there_are_commands_and_links_to_check() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert text.count("crossmodal transfer configs/") > 1 and text.count("](docs/") > 2


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_every_config_begins_with_its_command(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert re.match(rf"# (make demo, or: )?crossmodal \w+ {re.escape(shown(path))}$", first), first


def test_what_is_no_config_by_itself_is_the_base_of_one() -> None:
    parts = set((ROOT / "configs").rglob("_*.yaml"))
    everything = [*CONFIGS, *parts]
    used = {path.parent / name for path in everything for name in re.findall(r"^base: (\S+)$", path.read_text(), re.M)}
    assert parts and parts <= used


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_every_config_fits_its_pipeline_and_so_do_its_stages(path: Path) -> None:
    pipeline = find_pipeline(re.findall(r"crossmodal (\w+) configs", path.read_text())[0])
    config = load(pipeline.Config, path)
    if pipeline is run:
        assert len(run._stages(config, path)) > 2
