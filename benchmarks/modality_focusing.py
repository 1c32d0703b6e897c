"""The Gaussian toy of the modality focusing hypothesis: distillation gains as far as both sensors see the same.

python benchmarks/modality_focusing.py [SEEDS]     three minutes on two cores for 10 seeds

Source: Xue et al. 2023, https://arxiv.org/abs/2206.06487, section 4.1. Twenty Gaussian numbers and a random plane
decide between two classes. The teacher sees ten of them among 25, the student ten among 50; gamma is the share of what
both see in all that either sees. 200 samples to learn from, 1,000 to be judged on; gradient descent at a rate of 0.1,
1,000 steps.

Linear student: `kd` beside `cross_entropy` against the latter alone. Student of two linear layers: `infonce` and `crd`,
which read its 16 numbers in between, beside `cross_entropy` against the latter alone; at both ends of gamma.
"""

import sys

import torch
from torch import Tensor, nn

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator

TRAIN, TEST, DECISIVE, STEPS, HIDDEN = 200, 1000, 10, 1000, 16
OVERLAPS = (0, 2, 4, 6, 8, 10)  # decisive numbers that both see
Split = tuple[Tensor, Tensor, Tensor]  # what the teacher sees, what the student sees, class


def draw(seed: int, overlap: int) -> tuple[Split, Split]:
    """Samples to learn from, and to be judged on."""
    plane = torch.randn(2 * DECISIVE, generator=generator("plane", seed))
    random = generator("samples", seed)

    def split(rows: int) -> Split:
        decisive = torch.randn(rows, 2 * DECISIVE, generator=random)
        teacher, student = (torch.randn(rows, size, generator=random) for size in (25, 50))
        student[:, :DECISIVE] = decisive[:, :DECISIVE]
        first = DECISIVE - overlap
        teacher[:, :DECISIVE] = decisive[:, first : first + DECISIVE]
        return teacher, student, (decisive @ plane > 0).long()

    return split(TRAIN), split(TEST)


def build(seed: int, inputs: int, hidden: int) -> nn.Sequential:
    """A linear classifier, or one of two linear layers."""
    torch.manual_seed(seed)
    trunk = nn.Linear(inputs, hidden) if hidden else nn.Identity()
    return nn.Sequential(trunk, nn.Linear(hidden or inputs, 2))


def crop(model: nn.Sequential, seen: Tensor) -> Features:
    """What a network says of samples."""
    embedding = model[0](seen)
    return Features(embedding, (), model[1](embedding))


def fit(model: nn.Sequential, terms: list[tuple[float, Objective]], seen: Tensor, teacher: Features | None,
        label: Tensor) -> nn.Sequential:  # fmt: skip
    """Full-batch gradient descent on the weighted objectives."""
    parameters = [item for part in (model, *(term for _, term in terms)) for item in part.parameters()]
    optimiser = torch.optim.SGD([item for item in parameters if item.requires_grad], lr=0.1)
    for step in range(STEPS):
        batch = Batch({}, torch.arange(len(seen)), label, step)
        outcomes = [(weight, objective, objective(crop(model, seen), teacher, batch)) for weight, objective in terms]
        torch.stack([weight * outcome.loss for weight, _, outcome in outcomes]).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        for _, objective, outcome in outcomes:
            if outcome.memo:
                objective.remember(*outcome.memo)
    return model


@torch.no_grad()
def accuracy(model: nn.Sequential, seen: Tensor, label: Tensor) -> float:
    """Percent."""
    return 100 * (crop(model, seen).logits.argmax(1) == label).float().mean().item()


def measure(seed: int, overlap: int) -> dict[str, float]:
    """Accuracies of the teacher, and gains over the same student without it."""
    (seen_by_teacher, seen, label), (_, test, truth) = draw(seed, overlap)
    cross_entropy = (1.0, OBJECTIVES.get("cross_entropy")(Spec(1, (), 2), None, TRAIN))
    found: dict[str, float] = {}
    students = [(0, ["kd"])] + ([(HIDDEN, ["infonce", "crd"])] if overlap in (OVERLAPS[0], OVERLAPS[-1]) else [])
    for hidden, names in students:
        teacher = fit(build(seed + 1, 25, hidden), [cross_entropy], seen_by_teacher, None, label)
        features = Features(*(item.detach() if isinstance(item, Tensor) else item for item in crop(
            teacher, seen_by_teacher)))  # fmt: skip
        alone = accuracy(fit(build(seed, 50, hidden), [cross_entropy], seen, None, label), test, truth)
        for name in names:
            specs = Spec(hidden or 50, (), 2), Spec(hidden or 25, (), 2)
            # the paper's KD is a mean over both classes too, and so half of ours
            weight, options = (0.5, {"temperature": 1.0}) if name == "kd" else (1.0, {"dim": HIDDEN})
            objective = OBJECTIVES.get(name)(*specs, TRAIN, **options)
            model = fit(build(seed, 50, hidden), [cross_entropy, (weight, objective)], seen, features, label)
            found[name] = accuracy(model, test, truth) - alone
        if not hidden:
            found["teacher"] = accuracy(teacher, draw(seed, overlap)[1][0], truth)
            found["alone"] = alone
    return found


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(1)  # small matrices
    print(f"{seeds} seeds; accuracy in %, gains over the same student alone in points, with standard errors\n")
    print("| gamma | teacher | student alone | kd | infonce | crd |\n|---|---|---|---|---|---|")
    for overlap in OVERLAPS:
        runs = [measure(seed, overlap) for seed in range(seeds)]
        columns = {name: torch.tensor([run[name] for run in runs]) for name in runs[0]}
        gains = " | ".join(f"{columns[name].mean():+.1f} ({columns[name].std() / seeds**0.5:.1f})"
                           if name in columns else "" for name in ("kd", "infonce", "crd"))  # fmt: skip
        print(f"| {overlap / (2 * DECISIVE - overlap):.2f} | {columns['teacher'].mean():.1f} "
              f"| {columns['alone'].mean():.1f} | {gains} |", flush=True)  # fmt: skip
