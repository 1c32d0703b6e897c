"""The rules of the house: imports go down only and never in a circle, interfaces are public, rooms hold the helpers."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("modalities", "crossmodal", "pipelines")
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(path) & set(LAYERS[layer + 1 :])
    if layer < 2:
        waits = path.name in ("loader.py", "client.py")  # a long wait can neither return nor raise
        logs = {"logging"} if waits else set()
        assert not (imported(path) - logs) & {"accelerate", "omegaconf", "yaml", "logging", "tqdm"}


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_code_does_not_print(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] != "pipelines":
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def test_another_package_called_modalities_is_named(tmp_path: Path) -> None:
    (tmp_path / "modalities").mkdir()
    (tmp_path / "modalities" / "__init__.py").write_text("")
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import crossmodal"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "modalities/__init__.py is another one; install crossmodal-transfer into" in told.stderr


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def modules_imported(path: Path) -> set[str]:
    """Our own modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wholes = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {whole if whole in MODULES else node.module for whole in wholes}
    return {name for name in found if name.partition(".")[0] in LAYERS}


def order_of(graph: dict[str, set[str]]) -> list[str]:
    return [*graphlib.TopologicalSorter(graph).static_order()]


def test_a_circle_of_imports_is_seen() -> None:
    with pytest.raises(graphlib.CycleError):
        order_of({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: modules_imported(path) - {name} for name, path in MODULES.items() if path.name != "__init__.py"}
    assert len(order_of(graph)) >= len(graph) > 50


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_package_imports_private_modules_of_another(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for name in modules_imported(path):
        package, *rest = name.split(".")
        assert package == own or not [part for part in rest if part.startswith("_") and part != "__main__"], name


def test_the_folder_of_pipelines_holds_commands_only() -> None:
    files = {path.stem for path in (ROOT / "pipelines").glob("*.py")} - {"__init__", "__main__", "api", "registry"}
    for name in files:
        tree = ast.parse((ROOT / "pipelines" / f"{name}.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {"run", "inputs"} - defined <= ({"inputs"} if name == "run" else set()), name


def test_tests_lie_where_the_code_lies() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert (ROOT / folder).is_dir(), f"{path}: there is no {folder}/"


def test_modules_of_earlier_versions_are_refused_with_their_new_name() -> None:
    import crossmodal.data.shards
    import pipelines.config
    from modalities.common.moved import MOVED

    assert crossmodal.data.shards and pipelines.config
    for old, new in MOVED.items():
        with pytest.raises(ModuleNotFoundError, match=f"^{old} is now {new}$"):
            importlib.import_module(old)
        assert importlib.util.find_spec(new) is not None


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len({*names}) == len(names), "pytest imports test files by their names alone"
