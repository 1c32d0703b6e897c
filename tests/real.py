"""Archives of real recordings, which are no part of the project: tests that need one skip where it is not."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


def extract(name: str, folder: Path, wanted: set[str] | Callable[[str], bool]) -> None:
    """Some members of an archive, by name or by a condition; with names, headers are read only until all are found."""
    if not (DATA / name).is_file():
        pytest.skip(f"{DATA / name} is not here")
    left = set() if callable(wanted) else set(wanted)
    with tarfile.open(DATA / name) as tar:
        for member in tar:
            if member.isfile() and (wanted(member.name) if callable(wanted) else member.name in left):
                content = tar.extractfile(member)
                assert content is not None
                (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / member.name).write_bytes(content.read())
                left.discard(member.name)
            if not callable(wanted) and not left:
                return
    if left:
        pytest.fail(f"{name} lacks {', '.join(sorted(left))}")
