"""Reading shards from an object store, with a warm cache and without a cache, against local shards.

moto's S3 on the loopback stands in for the store, in a process of its own; it shares the processor, so the pace without
a cache is that of moto rather than of a store. Processor seconds are those of the process that reads and decodes, and
say what the ways cost where the pace is disturbed.

    python benchmarks/remote.py     about a minute on two cores
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from crossmodal import SOURCES
from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, open_view, train_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop
from crossmodal.data.writer import write_shards
from crossmodal.stores import cache

STORE = """
import logging, sys, time
from moto.server import ThreadedMotoServer
from werkzeug.serving import WSGIRequestHandler
WSGIRequestHandler.protocol_version = "HTTP/1.1"
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def serve() -> Iterator[None]:
    """A store in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", STORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{process.stdout.readline().decode().strip()}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield
        finally:
            process.stdin.close()


def upload(folder: Path) -> str:
    """Copies shards into the store."""
    import boto3

    store = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    store.create_bucket(Bucket="bucket")
    for path in folder.iterdir():
        store.upload_file(str(path), "bucket", f"pairs/{path.name}")
    return "s3://bucket/pairs"


def read(place: str | Path, workers: int, size: int) -> tuple[float, float, float]:
    """Pairs a second, processor seconds, and the sum of all pictures of one epoch, without its first step."""
    shards = Shards.open(place)
    views = {"rgb": open_view(shards, "rgb", size=size), "depth": open_view(shards, "depth", size=size)}
    plan = Plan(len(shards), 50, shard_starts=tuple(shards.starts[:-1].tolist()), shuffle_block=250)
    parts = train_parts(PairStream(shards, views, plan, crop=Crop(), last_step=plan.steps), workers=workers)
    total = float(next(parts).adapted["rgb"].double().sum())
    began, used = time.perf_counter(), time.process_time()
    for part in parts:
        total += float(part.adapted["rgb"].double().sum())
    seconds, spent = time.perf_counter() - began, time.process_time() - used
    return (plan.steps - 1) * plan.batch_size / seconds, spent, total


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, pixels")
    parser.add_argument("--rounds", type=int, default=8, help="of all ways in turn; the best of each is printed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, serve():
        root = Path(folder)
        source = SOURCES.get("synthetic")(train_pairs=asked.pairs, test_pairs=8, size=asked.size)
        write_shards(source.pairs("train"), root / "train", fields=source.fields(), classes=source.classes(),
                     pairs_per_shard=100)  # fmt: skip
        url = upload(root / "train")
        ways = {"local": (root / "train", None), "warm cache": (url, cache.Cache(root / "cache", 10**10)),
                "no cache": (url, None)}  # fmt: skip
        rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for turn in range(-1, asked.rounds):  # the first fills the cache
            for name, (place, kept) in [*ways.items()][:: 1 if turn % 2 else -1]:
                cache.use(kept)
                row = read(place, asked.workers, asked.size)
                rows[name] += [row] if turn >= 0 else []
            while len([*(root / "cache").glob("?" * 64)]) < 2 * -(-asked.pairs // 100):
                time.sleep(0.1)
        assert len({total for found in rows.values() for _, _, total in found}) == 1, "other pictures"
        size = sum(path.stat().st_size for path in (root / "train").glob("*.tar")) / asked.pairs
        print(f"{asked.pairs} pairs of {size / 1e3:.1f} kB, {asked.workers} workers, the best of {asked.rounds} rounds")
        fast, cheap = max(row[0] for row in rows["local"]), min(row[1] for row in rows["local"])
        for name, found in rows.items():
            pace, cost = max(row[0] for row in found), min(row[1] for row in found)
            print(f"{name:12}{pace:6.0f} pairs/s, {100 * pace / fast:5.1f} % of local; {cost:6.2f} s of processor, "
                  f"{100 * cost / cheap:5.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
