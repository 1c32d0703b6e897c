"""Shards in a store are those on the disk: the same bytes, the same batches, the same digests."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stored import BUCKET, SIGNATURE, Proxy, Store, always, now_and_then

from crossmodal.data import reader, remote
from crossmodal.data.manifest import ShardError
from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, SampleBatch, open_view, train_parts
from crossmodal.data.shards import Shards
from crossmodal.data.verify import check, check_tars
from crossmodal.data.views import Crop
from crossmodal.stores import cache, client
from crossmodal.stores.cache import Cache
from crossmodal.stores.errors import StoreError, clean
from crossmodal.stores.explain import explain
from crossmodal.stores.paths import RemotePath, to_path, why_not_url
from pipelines import shards


@pytest.fixture
def url(store: Store, synthetic: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a copy of the synthetic training shards, which a test may damage."""
    return store.upload(synthetic / "train", re.sub(r"\W+", "-", request.node.name))


@pytest.fixture(scope="module")
def local(synthetic: Path) -> list[SampleBatch]:
    """The batches of the shards on the disk."""
    return batches(synthetic / "train")


def batches(
    place: str | Path, *, workers: int = 0, first: int = 0, skip: bool = False, lanes: int = 4
) -> list[SampleBatch]:
    shards = Shards.open(place)
    views = {"rgb": open_view(shards, "rgb", size=16), "depth": open_view(shards, "depth", size=16)}
    plan = Plan(len(shards), 16, lanes=lanes, shuffle_block=20, shard_starts=tuple(shards.starts[:-1].tolist()))
    stream = PairStream(shards, views, plan, crop=Crop(), first_step=first, last_step=6, skip_unreadable=skip)
    return [*train_parts(stream, workers=workers)]


def same(one: list[SampleBatch], other: list[SampleBatch]) -> bool:
    def tensors(parts: list[SampleBatch]) -> Iterator[torch.Tensor]:
        for part in parts:
            yield from (part.index, part.label, *part.adapted.values(), *part.draws.values())

    pairs = [*zip(tensors(one), tensors(other), strict=True)]
    return bool(pairs) and all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_the_batches_and_the_digest_are_those_of_the_local_shards(
    synthetic: Path, local: list[SampleBatch], url: str
) -> None:
    assert same(batches(url), local)
    assert Shards.open(url).manifest.digest == Shards.open(synthetic / "train").manifest.digest


@pytest.mark.slow
def test_the_workers_of_a_loader_read_a_store_too(store: Store, local: list[SampleBatch], url: str) -> None:
    Shards.open(url).facts(0)  # the libraries of stores keep threads, which a fork does not have
    assert same(batches(url, workers=2, first=3), local[3:])
    store.fault = lambda proxy: proxy.path.endswith(".tar") and always(403)(proxy)
    with pytest.raises(StoreError, match=rf"^{url}/\S+.tar: access is refused"):  # without a worker's traceback
        batches(url, workers=2)


@pytest.mark.parametrize("kind", ["503", "reset", "cut", "slow"])
def test_a_store_that_fails_now_and_then_gives_the_same_batches(
    store: Store, local: list[SampleBatch], url: str, kind: str
) -> None:
    store.fault = now_and_then(3, kind)
    assert same(batches(url), local)
    assert store.count("GET", ".tar") > 6


def test_a_step_takes_one_request_a_shard_and_pair_members_none_of_their_own(store: Store, url: str) -> None:
    batches(url)
    assert store.count("GET", ".json") == 1 and store.count("GET", ".npy") == 4
    assert store.count("GET", ".tar") <= 6 * 4  # 6 steps, at most 4 shards; 96 pairs of 3 members


def wait_until_kept(folder: Path, count: int) -> None:
    """Until so many shards, with their indexes, are in a cache."""
    deadline = time.monotonic() + 60
    while len([*folder.glob("?" * 64)]) < 2 * count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_with_a_cache_every_shard_is_fetched_once_and_then_read_from_the_disk(
    store: Store, local: list[SampleBatch], url: str, tmp_path: Path
) -> None:
    cache.use(Cache(tmp_path / "cache", 10**7))
    assert same(batches(url), local)
    wait_until_kept(tmp_path / "cache", 4)
    store.requests.clear()
    assert same(batches(url), local)
    assert store.requests == [("GET", f"/{BUCKET}/{url.rpartition('/')[2]}/manifest.json")]


def test_a_cached_shard_that_changes_on_the_disk_is_read_from_the_store(
    store: Store, synthetic: Path, url: str, tmp_path: Path
) -> None:
    cache.use(Cache(tmp_path / "cache", 10**7))
    batches(url)
    wait_until_kept(tmp_path / "cache", 4)
    shards = Shards.open(url)
    kept = tmp_path / "cache" / shards.manifest.shards[0].sha256
    kept.write_bytes(bytes(kept.stat().st_size))
    assert shards.read(3, ["rgb.jpg"]) == Shards.open(synthetic / "train").read(3, ["rgb.jpg"])
    assert not kept.exists() or kept.read_bytes() == (synthetic / "train" / "000000.tar").read_bytes()


# --- what is wrong is one sentence, and soon ---


def test_a_shard_that_changes_while_it_is_read_is_an_error_and_never_data(
    store: Store, synthetic: Path, url: str
) -> None:
    shards, prefix = Shards.open(url), url.rpartition("/")[2]
    shards.read(0, ["rgb.jpg"])
    tar = (synthetic / "train" / "000000.tar").read_bytes()
    store.put(f"{prefix}/000000.tar", bytes(len(tar)))
    with pytest.raises(
        ShardError, match=rf"{url}/000000.tar: pair \S+ rgb.jpg: its bytes changed since they were packed"
    ):
        shards.read(1, ["rgb.jpg"])
    store.put(f"{prefix}/000000.tar", tar[:2000])
    with pytest.raises(ShardError, match=rf"{url}/000000.tar ends before bytes that .* copy or pack it again"):
        shards.read(20, ["rgb.jpg"])
    store.delete(f"{prefix}/000000.tar")
    with pytest.raises(ShardError, match=rf"{url}/000000.tar is missing, though {url}/manifest.json lists it"):
        shards.read(2, ["rgb.jpg"])
    store.put(f"{prefix}/000001.index.npy", (synthetic / "train" / "000002.index.npy").read_bytes())
    with pytest.raises(ShardError, match=rf"{url}/000001.index.npy is not the index that was written"):
        shards.read(30, ["rgb.jpg"])


def test_one_missing_shard_is_replaced_but_a_store_that_is_lost_is_not(store: Store, url: str) -> None:
    store.delete(f"{url.rpartition('/')[2]}/000001.tar")
    replaced = [text for part in batches(url, skip=True) for text in part.replaced]
    assert replaced and all("000001.tar is missing" in text for text in replaced)
    for lost in ("000002.tar", "000002.index.npy"):
        store.fault = lambda proxy, lost=lost: proxy.path.endswith(lost) and always(403)(proxy)
        with pytest.raises(StoreError, match=rf"{lost}: access is refused; give credentials that may read"):
            batches(url, skip=True)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (f"s3://{BUCKET}/nothing", r"s3://bucket/nothing/manifest.json is missing \(there is no such folder\)"),
        ("s3://nobucket/pairs", r"s3://nobucket/pairs/manifest.json is missing \(there is no such bucket\)"),
        ("sss://bucket/pairs", r"sss://bucket/pairs: no store is named sss://; known are s3://, "),
        (
            "s3://user:pw@bucket/pairs",
            r"must be a URL without user, password, .* such as s3://bucket/pairs: cred",
        ),
        ("https://host/pairs?sig=pw", r"must be a URL without user, password, .* such as https://host/pairs: cred"),
        ("file:///data/pairs", r"must be a path for local files, got file:///data/pairs"),
        ("s3://", r"must name a bucket or host after s3://"),
    ],
)
def test_a_wrong_place_is_one_sentence_without_secrets(store: Store, place: str, message: str) -> None:
    with pytest.raises((ShardError, StoreError), match=message) as caught:
        Shards.open(place)
    assert "pw" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("status", "message"), [(403, "access is refused"), (401, "access is refused")])
def test_a_forbidden_bucket_is_told_at_once(store: Store, url: str, status: int, message: str) -> None:
    store.fault = always(status)
    began = time.monotonic()
    with pytest.raises(StoreError, match=rf"{url}/manifest.json: {message}; give credentials .* \(AWS_PROFILE"):
        Shards.open(url)
    assert store.count("GET", "manifest.json") == 1 and time.monotonic() - began < 30


def test_a_store_that_is_down_is_given_up_after_some_attempts(store: Store, url: str) -> None:
    store.fault = always(503)
    with pytest.raises(StoreError, match=rf"{url}/manifest.json: the store answers with status 503 after 6 attempts"):
        Shards.open(url)
    assert store.count("GET", "manifest.json") == 6


def test_a_host_that_is_not_there_is_told(store: Store) -> None:
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9/x/manifest.json: http://127.0.0.1:9 cannot be reached"):
        Shards.open("http://127.0.0.1:9/x")


def test_a_long_wait_is_told(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "SAY_SECONDS", 0.05)
    store.fault = lambda proxy: time.sleep(0.3) is not None
    Shards.open(url)
    assert f"waiting for {url}/manifest.json since 0 s" in caplog.messages


def test_library_errors_are_stripped_of_secrets() -> None:
    text = "GET https://user:pw@host/a?X-Amz-Signature=pw#pw failed, see s3://key:pw@bucket/x"
    assert clean(text) == "GET https://host/a failed, see s3://bucket/x"
    told = explain("az://c/x", RuntimeError(f"Generic error: {text}"), 1)
    assert "pw" not in str(told)


@pytest.mark.parametrize("name", ["pairs/000403.tar", "credentials/1.tar", "x/AccessDenied", "e"])
def test_a_name_is_not_the_reason_of_an_error(name: str) -> None:
    text = f"Error performing GET http://h:9/b/{name} in 401ms, {name} of b/{name} - operation timed out"
    assert re.fullmatch(
        rf"s3://b/{name}: s3://b does not answer in time after 6 .*", str(explain(f"s3://b/{name}", OSError(text), 6))
    )


@pytest.mark.parametrize(
    ("text", "status"), [("403 Client Error: Forbidden for url: https://h/x", None), ("message='no'", 401)]
)
def test_refused_access_is_told_for_the_libraries_below_fsspec(text: str, status: int | None) -> None:
    error = RuntimeError(text)
    error.status = status  # type: ignore[attr-defined]
    assert "access is refused" in str(explain("hf://datasets/u/x", error, 1))


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:ab/cdpw@bucket/x", "s3://key:p@sspw@bucket/x", "s3://key:1/pw@bucket", "s3://key:ab/pw",
        "s3://key:a'/pw@bucket", "s3://key:1/'pw@bucket",
    ],
)  # fmt: skip
def test_a_secret_with_any_signs_is_refused_and_never_shown(url: str) -> None:
    told = why_not_url(url)
    assert "without user, password" in told and "pw" not in told and "key" not in told
    if "'" not in url and "@" in url:
        assert clean(f"x {url} y") == f"x s3://bucket{url.partition('@bucket')[2]} y"


@pytest.mark.parametrize("url", ["hf://datasets/u/name@v1", "http://h:80/a:b", "http://[::1]:80/a", "s3://bucket"])
def test_an_address_without_a_secret_is_taken_as_it_is(url: str) -> None:
    assert why_not_url(url) == "" and clean(url) == url


def test_every_byte_of_a_store_is_checked_as_that_of_a_folder_is(store: Store, synthetic: Path, url: str) -> None:
    tar = bytearray((synthetic / "train" / "000003.tar").read_bytes())
    tar[700] ^= 1
    prefix = url.rpartition("/")[2]
    store.put(f"{prefix}/000003.tar", bytes(tar))
    store.put(f"{prefix}/000004.tar", b"")
    problems = check(to_path(url))
    assert (
        problems[0] == f"{url}/000003.tar: its bytes changed since it was written (sha256 differs from the manifest's)"
    )
    assert problems[-1] == f"{url}/000004.tar: not in the manifest"


def test_a_web_server_that_answers_for_ranges_is_a_store(store: Store, local: list[SampleBatch], url: str) -> None:
    store.fault = lambda proxy: proxy.headers.add_header("Authorization", SIGNATURE) is not None  # pass it on
    place = f"http://127.0.0.1:{store.port}/{url.removeprefix('s3://')}"
    assert same(batches(place), local)


def test_a_web_server_that_lists_nothing_is_checked_by_its_manifest(
    store: Store, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Proxy, "do_PROPFIND", lambda proxy: proxy.answer(405), raising=False)
    store.fault = lambda proxy: proxy.headers.add_header("Authorization", SIGNATURE) is not None  # pass it on
    place = f"http://127.0.0.1:{store.port}/{url.removeprefix('s3://')}"
    assert check_tars(to_path(place), [], {}) == []
    shards.inspect("--info", to_path(place))
    assert capsys.readouterr().out.startswith(f"{place}: ")
    above = place.rpartition("/")[0]
    with pytest.raises(StoreError, match=f"^{above}: this server cannot list a folder; give the folder of one split$"):
        shards.inspect("--info", to_path(above))
    with pytest.raises(ShardError, match=r"manifest.json is missing; this server cannot list a folder, so give the "):
        Shards.open(above)
    told = explain(above, OSError("Error performing PROPFIND http://h in 1s - status code: 501 Not Implemented"), 1)
    assert "cannot list a folder" in str(told)


def test_fsspec_reads_what_obstore_does_not(store: Store, synthetic: Path, local: list[SampleBatch]) -> None:
    pytest.importorskip("fsspec", reason="needs crossmodal-transfer[remote]")
    url = f"local://{synthetic}/train"
    assert same(batches(url), local)
    assert [path.name for path in RemotePath(url).glob("*.tar")] == [f"00000{n}.tar" for n in range(4)]
    with pytest.raises(ShardError, match=r"local:///nothing/manifest.json is missing"):
        Shards.open("local:///nothing")


def test_shards_are_fetched_before_the_plan_needs_them(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def record(name: str, *args: Any, **options: Any) -> Any:
        if name == "fetch" and not options["now"]:
            asked.append({place for place, _, _ in args[1]})
        return client.ask(name, *args, **options)

    monkeypatch.setattr(remote, "client", SimpleNamespace(ask=record))
    monkeypatch.setattr(reader, "AHEAD", 2)
    cache.use(Cache(tmp_path / "cache", 1))  # nothing fits, so every step asks
    seen = batches(url, lanes=1)  # one shard after the other
    shards = Shards.open(url)
    needed = [{f"{url}/{shards.locate(index)[0].name}" for index in part.index.tolist()} for part in seen]
    assert asked == needed[2:]  # each two steps before
