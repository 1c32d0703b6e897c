"""Seconds until the command line has answered, as multiples of starting Python and importing PyYAML.

The bars are 0.5 s for help and 1 s for a mistake in a config, on a quiet machine.

    python benchmarks/startup.py [--tries 5]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(words: list[str], tries: int) -> float:
    """The least of some tries, because other work on the machine only adds."""
    least = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], capture_output=True, check=False)
        least = min(least, time.perf_counter() - began)
    return least


def measure() -> None:
    """Reads the arguments and prints a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=5)
    tries = parser.parse_args().tries
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.yaml"
        wrong.write_text("data: ${absent}\nbatc: 3\n")
        base = seconds(["-c", "import yaml"], tries)
        for words in (["--help"], ["transfer", "--help"], ["list", "objectives"], ["transfer", str(wrong)]):
            took = seconds(["-m", "pipelines", *words], tries)
            told = " ".join(words).replace(f"{folder}/", "")
            print(f"crossmodal {told}: {took:.2f} s, {took / base:.1f} times Python with PyYAML")


if __name__ == "__main__":
    measure()
