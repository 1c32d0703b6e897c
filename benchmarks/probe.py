"""Memory and time of the linear probe on many rows of random clusters.

    python benchmarks/probe.py --rows 1000000 --dim 512 --classes 1000 [--passes 6] [--rounds 4] [--threads 2]

The peak of resident memory includes Python, torch and the rows themselves, whose size is printed too. Fewer passes or
rounds show the memory and the time of a pass sooner; the probe has then not converged.
"""

import argparse
import resource
import time

import torch

from crossmodal.metrics import probe


def main() -> None:
    """Fits one probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1_000_000), ("dim", 512), ("classes", 1000), ("test", 20_000),
                          ("passes", probe.PASSES), ("rounds", probe.ROUNDS), ("threads", 1)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    probe.PASSES, probe.ROUNDS = asked.passes, asked.rounds
    centres = 0.15 * torch.randn(asked.classes, asked.dim)
    labels = torch.randint(asked.classes, (asked.rows + asked.test,))
    rows = torch.randn(asked.rows + asked.test, asked.dim)
    for place in range(0, len(rows), 1 << 14):
        rows[place : place + (1 << 14)] += centres[labels[place : place + (1 << 14)]]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wall, own = time.monotonic(), time.process_time()
    answer = probe.linear_probe(
        rows[: asked.rows], labels[: asked.rows], rows[asked.rows :], asked.classes, device=device
    )
    wall, own = time.monotonic() - wall, time.process_time() - own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    right = (answer == labels[asked.rows :]).double().mean().item()
    print(f"{asked.rows} x {asked.dim}, {asked.classes} classes on {device}: {own:.0f} s of processor time, "
          f"{wall:.0f} s of the clock; peak {peak:.2f} GiB, of which the rows are {rows.numel() * 4 / 1024**3:.2f}; "
          f"accuracy {100 * right:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
