"""Schemes of pretraining side by side: linear probe of the frozen encoder on CIFAR-10, the same encoder and budget.

    python benchmarks/pretraining.py [--seeds 3] [--tail] [--output runs/pretrain/compared]

Needs the shards of configs/pretrain/cifar10_shards.yaml, and takes hours. With --tail also CACR and SimCLR on a long
tail, of whose classes the i-th keeps i / 10 of its pictures. The same command goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path

from pipelines.__main__ import main

CONFIGS, PAIRS = Path("configs/pretrain"), Path("runs/pretrain/cifar10/pairs")
SCHEMES = {
    "supcon": ("cifar10_supcon", []),
    "cacr": ("cifar10_cacr", []),
    "simclr": ("cifar10_simclr", []),
    "loco": ("cifar10_loco", []),
    "greedy": ("cifar10_loco", ["gradients.unit=1"]),
}
TAILS = {f"{name}, long tail": (SCHEMES[name][0], ["keep=linear"]) for name in ("cacr", "simclr")}


def compare(seeds: int, output: Path, *, tail: bool) -> None:
    """Trains what is missing, judges all, and prints the probes from the best to the worst."""
    students = {}
    for name, (config, words) in (SCHEMES | (TAILS if tail else {})).items():
        folders = [f"{output}/{name.replace(', ', '_').replace(' ', '_')}_{seed}" for seed in range(seeds)]
        for seed, folder in enumerate(folders):
            done = main(["pretrain", str(CONFIGS / f"{config}.yaml"), *words, f"seed={seed}", f"output={folder}"])
            assert done == 0, f"{name}, seed {seed}"
        students[name] = folders
    overrides = ["~students.supcon", "~students.cacr", "~students.simclr", "~students.loco",
                 f"students={json.dumps(students)}", f"seeds={seeds}", f"output={output}/evaluation"]  # fmt: skip
    assert main(["evaluate", str(CONFIGS / "cifar10_evaluate.yaml"), *overrides]) == 0
    table = json.loads((output / "evaluation" / "report.json").read_text())["figures"]["table"]
    print("\nscheme | probe | kNN | alignment | in classes | uniformity | instances")
    for name, row in sorted(table.items(), key=lambda item: -item[1]["probe"]["mean"]):
        cells = [f"{100 * row[key]['mean']:.1f} +- {100 * (row[key]['std'] or 0):.1f}" for key in ("probe", "knn")]
        cells += [f"{row[key]['mean']:.2f}" for key in ("alignment", "intra_class", "uniformity")]
        print(f"{name} | {' | '.join(cells)} | {100 * row['instance']['mean']:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tail", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/pretrain/compared"))
    asked = parser.parse_args()
    if PAIRS.is_dir():
        compare(asked.seeds, asked.output, tail=asked.tail)
    else:
        print(f"{PAIRS} is missing: crossmodal shards {CONFIGS / 'cifar10_shards.yaml'}")
