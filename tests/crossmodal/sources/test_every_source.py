"""What every source must keep. A source that cannot be built from defaults gives an `example` in its test file."""

import importlib
from itertools import islice
from pathlib import Path

import pytest

from crossmodal import SOURCES
from crossmodal.data.writer import KEY
from crossmodal.sources import Pair, Source
from modalities import Modality

FEW = 3  # pairs looked at; sources make them as they are asked for


@pytest.fixture(scope="module", params=SOURCES.names())
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def build(name: str, folder: Path) -> Source:
    """A small instance of a source."""
    if name == "doom":
        pytest.importorskip("vizdoom", reason="the source doom needs the package vizdoom")
    options = SOURCES.options(name)
    if any(option.default is None for option in options.values()):
        return importlib.import_module(f"test_source_{name}").example(folder)
    return SOURCES.get(name)(**{option: FEW for option in ("train_pairs", "test_pairs") if option in options})


@pytest.fixture(scope="module")
def pairs(source: Source) -> dict[str, list[Pair]]:
    return {split: list(islice(source.pairs(split), FEW)) for split in source.splits()}


def test_there_are_sources() -> None:
    assert {"folder", "synthetic"} <= set(SOURCES.names())


def test_every_part_has_pairs(pairs: dict[str, list[Pair]]) -> None:
    assert pairs
    assert all(pairs.values())


def test_every_pair_has_every_field_and_it_decodes(source: Source, pairs: dict[str, list[Pair]]) -> None:
    fields = source.fields()
    assert fields
    for pair in (pair for part in pairs.values() for pair in part):
        members = {name.split(".")[0]: (name.split(".")[1], payload) for name, payload in pair.members.items()}
        for name, modality in fields.items():
            extension, payload = members[name]
            assert isinstance(modality, Modality)
            assert extension in modality.extensions
            assert modality.decode(payload).ndim >= 2
            assert modality.field == name


def test_labels_are_classes(source: Source, pairs: dict[str, list[Pair]]) -> None:
    highest = len(source.classes())
    assert all(-1 <= pair.label < highest for part in pairs.values() for pair in part)


def test_keys_are_fit_for_shards_and_unique_in_a_part(pairs: dict[str, list[Pair]]) -> None:
    for part in pairs.values():
        assert all(KEY.fullmatch(pair.key) for pair in part)
        assert len({pair.key for pair in part}) == len(part)


def test_parts_are_disjoint(pairs: dict[str, list[Pair]]) -> None:
    seen = [tuple(sorted(pair.members.items())) for part in pairs.values() for pair in part]
    assert len(set(seen)) == len(seen)


def test_pairs_that_others_pack_are_passed_over(source: Source, pairs: dict[str, list[Pair]]) -> None:
    for split, part in pairs.items():
        asked: list[int] = []
        found = [*source.numbered(split, lambda number: asked.append(number) or number in (0, 2))]  # noqa: B023
        assert found == [(number, part[number]) for number in (0, 2) if number < len(part)]
        assert asked == [*range(len(asked))] and len(asked) >= len(part)


def test_the_same_twice(source: Source, pairs: dict[str, list[Pair]]) -> None:
    for split, part in pairs.items():
        assert list(islice(source.pairs(split), FEW)) == part
    assert source.digest() == source.digest()
