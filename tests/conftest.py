"""Every annotation is a test: shapes and types are checked wherever our code runs under pytest."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import typecheck

if TYPE_CHECKING:
    from stored import Store

os.environ["OMP_NUM_THREADS"] = "1"  # sums in one order, in this process and in those it starts; and one core a worker
jaxtyping.install_import_hook(["modalities", "crossmodal", "pipelines"], "typecheck.check")
jaxtyping.jaxtyped = typecheck.jaxtyped


@pytest.fixture(scope="session", autouse=True)
def printed() -> None:
    """Lines for the user go to stdout, as the command prints them."""
    from pipelines.runs.console import print_records

    print_records()


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic shards: train (96 pairs in 4 shards) and test (40 pairs), 32 pixels."""
    from crossmodal import SOURCES
    from crossmodal.data.writer import write_shards

    folder = tmp_path_factory.mktemp("synthetic")
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=40, size=32)
    for split in source.splits():
        write_shards(
            source.pairs(split), folder / split, fields=source.fields(), classes=source.classes(), pairs_per_shard=25
        )
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF_HOME and TORCH_HOME, in which nothing can be reached."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hf" / "hub"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes can hold the time they were made at, and all workers must find the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared_store() -> Iterator["Store"]:
    """An S3 on the loopback, for `store`."""
    from stored import serve

    with serve() as store:
        yield store


@pytest.fixture
def store(shared_store: "Store", monkeypatch: pytest.MonkeyPatch) -> Iterator["Store"]:
    """An S3 on the loopback without faults, in the environment of this process."""
    from crossmodal.stores import cache

    for name, value in shared_store.variables.items():
        monkeypatch.setenv(name, value)
    shared_store.requests.clear()
    yield shared_store
    shared_store.fault = lambda proxy: False
    cache.use(None)


def pytest_collection_finish() -> None:
    """What is imported by now stays, so collections of garbage, one a training, need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
