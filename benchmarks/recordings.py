"""Read rate and peak memory of bags of uncompressed 640 x 480 colour (rgb8) and depth (16UC1).

The script writes its own bags into a temporary folder, and reads every frame of each in a process of its own: first
the stamps, then all frames. The bars are 100 MB a second of one core, and memory that does not grow with the length.

    OMP_NUM_THREADS=1 python benchmarks/recordings.py [--containers bag,db3,mcap] [--gb 0.2,1,2] [--folder /tmp]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal.sources.recordings.bags import open_bags

HEIGHT, WIDTH = 480, 640
PAIR_BYTES = HEIGHT * WIDTH * (3 + 2)
STEP_NS = 33_333_333


def write(path: Path, pairs: int) -> None:
    """Writes pairs of random pictures; the container follows the extension."""
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import StoragePlugin
    from rosbags.rosbag2 import Writer as Writer2
    from rosbags.typesys import Stores, get_typestore

    ros1 = path.suffix == ".bag"
    types = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)
    plugin = StoragePlugin.MCAP if path.suffix == ".mcap" else StoragePlugin.SQLITE3
    writer: Any = Writer1(path) if ros1 else Writer2(path.with_suffix(""), version=9, storage_plugin=plugin)
    noise = np.random.default_rng(0).integers(0, 256, PAIR_BYTES + 256, np.uint8)
    kinds = {"/color/image_raw": ("rgb8", WIDTH * 3), "/depth/image_raw": ("16UC1", WIDTH * 2)}
    with writer:
        connections = {topic: writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=types) for topic in kinds}
        for number in range(1, pairs + 1):
            for topic, (encoding, step) in kinds.items():
                stamp = types.types["builtin_interfaces/msg/Time"](*divmod(number * STEP_NS, 1_000_000_000))
                sequence = {"seq": number} if ros1 else {}
                message = types.types["sensor_msgs/msg/Image"](
                    header=types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **sequence),
                    height=HEIGHT,
                    width=WIDTH,
                    encoding=encoding,
                    is_bigendian=0,
                    step=step,
                    data=noise[number % 256 :][: HEIGHT * step],
                )
                pack = types.serialize_ros1 if ros1 else types.serialize_cdr
                writer.write(connections[topic], number * STEP_NS, pack(message, "sensor_msgs/msg/Image"))


def read(path: Path) -> dict[str, float]:
    """Reads all of a bag once: seconds of wall and processor, bytes of pixels, and peak memory in MB."""
    imported = _peak_mb()
    (recording,) = open_bags(path)
    streams = recording.streams()
    before = time.perf_counter(), time.process_time()
    wanted = {name: np.arange(len(recording.stamps(name))) for name in streams}
    stamped = time.perf_counter(), time.process_time()
    pixels = sum(np.asarray(frame.content).nbytes for frame in recording.frames(wanted))
    done = time.perf_counter(), time.process_time()
    return {
        "stamps_s": stamped[1] - before[1],
        "frames_s": done[1] - stamped[1],
        "frames_wall_s": done[0] - stamped[0],
        "bytes": pixels,
        "peak_mb": _peak_mb(),
        "grown_mb": _peak_mb() - imported,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure() -> None:
    """Reads the arguments and prints a line for each container and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", default="bag,db3,mcap")
    parser.add_argument("--gb", default="0.2,1,2", help="sizes of the bags")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # in the process that reads
    options = parser.parse_args()
    if options.read is not None:
        print(json.dumps(read(options.read)))
        return
    for container in options.containers.split(","):
        for size in options.gb.split(","):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                path = Path(folder) / f"recording.{container}"
                write(path, int(float(size) * 1e9 / PAIR_BYTES))
                stored = path if path.exists() else next(path.with_suffix("").glob(f"*.{container}"))
                words = [sys.executable, __file__, "--read", str(stored)]
                found = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
            megabytes = found["bytes"] / 1e6
            print(
                f"{container} {size} GB: frames {megabytes / found['frames_s']:.0f} MB/s of processor time "
                f"({megabytes / found['frames_wall_s']:.0f} MB/s of wall time), stamps "
                f"{megabytes / found['stamps_s']:.0f} MB/s, peak memory {found['peak_mb']:.0f} MB "
                f"({found['grown_mb']:.0f} MB more than after the imports)",
                flush=True,
            )


if __name__ == "__main__":
    measure()
