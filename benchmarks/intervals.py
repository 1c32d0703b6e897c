"""How often the 95 % intervals of evaluations hold the truth, on simulated answers.

python benchmarks/intervals.py [TRIES]     five minutes on one core for 1,000 tries of each setting

Each training answers 60 test pairs of each group. The probability of a right answer is 0.5, plus a number of the group
and one of the training, which are normal with the given standard deviations.
"""

import sys

import torch

from crossmodal.metrics.intervals import Estimate, Resampling, Totals

PAIRS = 60  # of a group
SPREADS = ((0.0, 0.0), (0.01, 0.1), (0.03, 0.1), (0.03, 0.03), (0.08, 0.03), (0.02, 0.05))  # of trainings, of groups


def coverage(groups: int, trainings: int, of_training: float, of_group: float, tries: int) -> float:
    """The share of intervals that hold 0.5."""
    resampling, held = Resampling([f"g{number // PAIRS}" for number in range(groups * PAIRS)], draws=500), 0
    for _ in range(tries):
        share = 0.5 + of_group * torch.randn(groups).repeat_interleave(PAIRS) + of_training * torch.randn(trainings, 1)
        totals = [Totals.mean(run.double()) for run in torch.rand(trainings, groups * PAIRS) < share.clamp(0.02, 0.98)]
        drawn = torch.stack([resampling(each) for each in totals])
        interval = Estimate(tuple(each() for each in totals), drawn, resampling.units).interval()
        assert interval is not None
        held += interval[0] <= 0.5 <= interval[1]
    return held / tries


def main() -> None:
    """Prints the share of each setting."""
    torch.manual_seed(0)
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for groups in (4, 12, 40):
        for trainings in (1, 3, 5):
            for of_training, of_group in SPREADS:
                if trainings > 1 or not of_training:  # one training does not show how much trainings differ
                    share = coverage(groups, trainings, of_training, of_group, tries)
                    print(f"{groups:3} groups ({of_group:.2f}), {trainings} trainings ({of_training:.2f}): {share:.1%}")


if __name__ == "__main__":
    main()
