"""Ranks of a launch agree before anything starts, share work, and join what they have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks
from torch import Tensor

from pipelines import transfer
from pipelines.config import ConfigError, load
from pipelines.config.errors import RunError, SharedError
from pipelines.runs import distributed, folder
from pipelines.runs.folder import RunFolder

CONFIG = """
data: pairs
views: {rgb: {modality: rgb}, depth: {modality: depth}}
teachers: {t: {view: rgb, weights: t}}
student: {view: depth, encoder: convnet}
objectives: {kd: {}}
"""


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    return Ranks(3, monkeypatch)


def fail(error: Exception) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


def test_what_succeeds_on_every_rank_is_each_rank_s_own(three: Ranks) -> None:
    makes = [lambda rank=rank: rank for rank in range(3)]
    assert three.run(*[lambda make=make: distributed.together(make) for make in makes]) == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyError("bad"), OSError(5, "bad"), ImportError("b"), RunError("b")]
)
def test_what_fails_on_one_rank_is_raised_on_all_with_that_rank(three: Ranks, error: Exception) -> None:
    makes = [lambda: 1, fail(error), lambda: 1]
    found = three.run(*[lambda make=make: distributed.together(make) for make in makes])
    assert [type(each) for each in found] == [SharedError] * 3
    assert {str(each) for each in found} == {f"rank 1: {error}"}


def test_what_fails_alike_on_all_ranks_is_raised_as_it_is(three: Ranks) -> None:
    found = three.run(*[lambda: distributed.together(fail(OSError(2, "no such")))] * 3)
    assert [type(each) for each in found] == [FileNotFoundError] * 3
    found = three.run(*[lambda: distributed.together(fail(ConfigError(["a", "b"])))] * 3)
    assert [(type(each), str(each)) for each in found] == [(SharedError, "a\nb")] * 3


def test_every_problem_is_told_once_with_its_ranks(three: Ranks) -> None:
    told = (["a", "b"], ["a"], ["a", "b", "c"])
    found = three.run(*[lambda each=each: distributed.together(fail(ConfigError(each))) for each in told])
    assert {str(each) for each in found} == {"a\nranks 0, 2: b\nrank 2: c"}


def test_what_the_first_rank_makes_all_have_and_its_failure_all_raise(three: Ranks) -> None:
    called: list[int] = []

    def make() -> str:
        called.append(three.here.rank)
        return "made"

    assert three.run(*[lambda: distributed.from_main(make)] * 3) == ["made"] * 3 and called == [0]
    found = three.run(*[lambda: distributed.from_main(fail(ValueError("full")))] * 3)
    assert [(type(each), str(each)) for each in found] == [(SharedError, "full")] * 3


@pytest.mark.parametrize("total", [0, 2, 7])
def test_jobs_are_done_once_each_and_all_ranks_have_all_results_in_order(three: Ranks, total: int) -> None:
    done: list[tuple[int, int]] = []
    jobs = [lambda number=number: done.append((number, three.here.rank)) or 10 * number for number in range(total)]
    assert three.run(*[lambda: distributed.deal(jobs)] * 3) == [[10 * number for number in range(total)]] * 3
    assert sorted(done) == [(number, number % 3) for number in range(total)]


def test_a_job_that_fails_on_one_rank_ends_all(three: Ranks) -> None:
    jobs = [lambda: 1, fail(ValueError("bad")), lambda: 1, lambda: 1]
    found = three.run(*[lambda: distributed.deal(jobs)] * 3)
    assert {(type(each), str(each)) for each in found} == {(SharedError, "rank 1: bad")}


@pytest.mark.parametrize("pairs", [0, 1, 31, 32, 33, 97])
def test_shares_are_all_pairs_in_order_in_whole_batches(three: Ranks, pairs: int) -> None:
    shares = three.run(*[lambda: distributed.share(pairs, 16)] * 3)
    assert [pair for share in shares for pair in share] == [*range(pairs)]
    assert all(share.start % 16 == 0 for share in shares if share)
    batches = [-(-len(share) // 16) for share in shares]
    assert max(batches) - min(batches) <= 1


def test_rows_are_joined_in_the_order_of_ranks_however_many_each_has(
    three: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "PIECE", 5)  # so that a message has two rows at most
    rows = [torch.arange(10.0).view(5, 2), torch.empty(0, 0), -torch.ones(1, 2)]
    found = three.run(*[lambda own=own: distributed.join_rows(own) for own in rows])
    expected = torch.cat([rows[0], rows[2]])
    assert all(isinstance(each, Tensor) and torch.equal(each, expected) for each in found)


def test_only_the_loss_of_another_process_is_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1")
    assert not distributed.is_lost(gone)  # there is no other
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert distributed.is_lost(gone) and not distributed.is_lost(RuntimeError("CUDA out of memory"))
    assert not distributed.is_lost(ValueError("closed by peer"))


def opening(path: Path, digest: str = "1", *overrides: str, pipeline: str = "transfer") -> Callable[[], RunFolder]:
    config = load(transfer.Config, path, overrides)
    return lambda: RunFolder.open(pipeline, config, lambda _: {"data": digest, "teachers.t": "2"})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def test_ranks_that_are_given_the_same_open_it(three: Ranks, file: Path) -> None:
    found = three.run(opening(file), opening(file, "1", "data=elsewhere", "teachers.t.weights=u"), opening(file))
    assert [type(each) for each in found] == [RunFolder] * 3 and not (file.parent / "runs").exists()


@pytest.mark.parametrize(("second", "words"), [
    (("9",), "every process must read the same, but data has other content on rank 1 than on rank 0"),
    (("1", "seed=3"), "every process must be given the same run, but seed is 0 on ranks 0, 2 and 3 on rank 1"),
    (("1", "train.workers=7"), "train.workers is 2 on ranks 0, 2 and 7 on rank 1"),  # decides no result
    (("1", "output=o"), 'output is "runs/transfer" on ranks 0, 2 and "o" on rank 1'),
])  # fmt: skip
def test_ranks_that_are_given_different_runs_all_refuse(
    three: Ranks, file: Path, second: tuple[str, ...], words: str
) -> None:
    found = three.run(opening(file), opening(file, *second), opening(file))
    assert [type(each) for each in found] == [SharedError] * 3, found
    assert all(words in str(each) for each in found)


def test_another_version_of_a_package_on_a_rank_is_refused(
    three: Ranks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = lambda: {"packages": {"torch": "2" if three.here.rank else "1"}}  # noqa: E731
    monkeypatch.setattr(folder, "environment", told)
    found = three.run(*[opening(file)] * 3)
    assert {str(each) for each in found} == {
        'every process must be given the same run, but versions.torch is "1" on rank 0 and "2" on ranks 1, 2'
    }


def test_inputs_that_one_rank_cannot_read_are_refused_on_all(three: Ranks, file: Path) -> None:
    config = load(transfer.Config, file)
    broken = lambda: RunFolder.open("transfer", config, lambda _: fail(OSError(2, "gone"))())  # noqa: E731
    found = three.run(opening(file), opening(file), broken)
    assert {(type(each), str(each)) for each in found} == {(SharedError, "rank 2: [Errno 2] gone")}


def test_only_the_first_rank_reads_the_inputs_of_a_pipeline_that_it_runs_alone(three: Ranks, file: Path) -> None:
    found = three.run(*[opening(file, digest, pipeline="shards") for digest in ("1", "8", "9")])
    assert [each.inputs["data"] for each in found] == ["1"] * 3


def test_all_ranks_have_the_first_rank_s_view_of_what_the_folder_holds(
    three: Ranks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system a rank may see an older state."""
    monkeypatch.setattr(RunFolder, "_read", lambda self: None if three.here.rank == 0 else {"old": True})
    assert [each.before for each in three.run(*[opening(file)] * 3)] == [None] * 3
