"""The other distillers against the published code: the same values and gradients, and the memory of the greedy ones.

python benchmarks/distillers.py [CHECKOUT]      some minutes on two cores, and all the memory there is

CHECKOUT is a clone of https://github.com/HobbitLong/RepDistiller. Without one, only our own memory is measured. Values
are compared in float64 on the same features, with our heads' weights in the published heads; theirs times the factor
that the objective's docstring tells. Memory is the growth of the peak during a step (forward and backward, float32)
over what was there before, each in a process of its own; what does not fit is refused memory, not killed.
"""

import argparse
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator

BATCH = 64
MAPS = ((16, 16, 16), (32, 8, 8), (64, 4, 4))
STUDENT = Spec(48, MAPS, 100, stem=(16, 16, 16), preactivations=True)
TEACHER = Spec(64, MAPS, 100, stem=(16, 16, 16), preactivations=True)
SPARE = 4 << 30  # bytes of memory that a step must leave to others

Published = Callable[[SimpleNamespace, Any, Features, Features], Tensor]  # their code, our objective, both features


@dataclass(frozen=True)
class Row:
    """An objective, and the same in published code."""

    name: str
    theirs: Published
    factor: float = 1.0  # what their value is multiplied by to be ours
    options: dict[str, Any] = field(default_factory=dict)


def like(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Theirs with our weights, layer by layer; a bias that only they have, before batch norm, is 0."""
    theirs.to(next(ours.parameters()).dtype)
    layers = [[each for each in module.modules() if getattr(each, "weight", None) is not None]
              for module in (theirs, ours)]  # fmt: skip
    with torch.no_grad():
        for other, mine in zip(*layers, strict=True):
            other.weight.copy_(mine.weight)
            if other.bias is not None and mine.bias is None:
                other.bias.zero_()
            elif other.bias is not None:
                other.bias.copy_(mine.bias)
    return theirs


def cc(code: SimpleNamespace, ours: Any, student: Features, teacher: Features) -> Tensor:
    """With both linear embeddings."""
    heads = ((ours.student_head, student.embedding), (ours.teacher_head, teacher.embedding))
    return code.Correlation()(*(like(code.LinearEmbed(item.shape[1], 128), head)(item) for head, item in heads))


def fitnet(code: SimpleNamespace, ours: Any, student: Features, teacher: Features) -> Tensor:
    """With the regressor on the second stage."""
    hint, target = student.maps[1], teacher.maps[1]
    return code.HintLoss()(like(code.ConvReg(hint.shape, target.shape), ours.regressors[0])(hint), target)


def vid(code: SimpleNamespace, ours: Any, student: Features, teacher: Features) -> Tensor:
    """With the regressors and variances of every stage."""
    total = 0.0
    for first, second, mean, rho in zip(student.maps, teacher.maps, ours.means, ours.rhos, strict=True):
        loss = code.VIDLoss(first.shape[1], second.shape[1], second.shape[1])
        loss.log_scale.data = rho.data.clone()
        like(loss.regressor, mean)
        total = total + loss(first, second)
    return total


def ft(code: SimpleNamespace, ours: Any, student: Features, teacher: Features) -> Tensor:
    """With translator and paraphraser."""
    first, second = student.maps[-1], teacher.maps[-1]
    translator, paraphraser = code.Translator(first.shape, second.shape), code.Paraphraser(second.shape)
    like(translator.encoder, ours.translator)
    like(paraphraser.encoder, ours.paraphraser.encoder)
    return code.FactorTransfer()(translator(first), paraphraser(second, is_factor=True))


def stages(features: Features) -> list[Tensor]:
    """What enters the first stage, and every map."""
    return [features.stem, *features.maps]


AS_PUBLISHED = {"compat": "repdistiller"}
ROWS = (
    Row("kd", lambda code, _, s, t: code.DistillKL(4)(s.logits, t.logits)),
    Row("fitnet", fitnet, options={"maps": [(1, 1)]}),
    Row("at", lambda code, _, s, t: sum(code.Attention()(s.maps, t.maps)), options=AS_PUBLISHED),
    Row("sp", lambda code, _, s, t: sum(code.Similarity()(s.maps[-1:], t.maps[-1:])), BATCH, {"of": "map"}),
    Row("cc", cc, options=AS_PUBLISHED),
    Row("vid", vid),
    Row("rkd", lambda code, _, s, t: code.RKDLoss(1, 0)(s.embedding, t.embedding), BATCH / (BATCH - 1),
        {"distance": 1.0, "angle": 0.0}),
    Row("rkd", lambda code, _, s, t: code.RKDLoss(0, 1)(s.embedding, t.embedding),
        BATCH**2 / ((BATCH - 1) * (BATCH - 2)), {"distance": 0.0, "angle": 1.0}),
    Row("pkt", lambda code, _, s, t: code.PKT()(s.embedding, t.embedding.clone()), BATCH, AS_PUBLISHED),
    Row("ab", lambda code, _, s, t: sum(code.ABLoss(len(MAPS))(s.preactivations, t.preactivations)),
        options=AS_PUBLISHED),
    Row("ft", ft, options=AS_PUBLISHED),
    Row("fsp", lambda code, _, s, t: sum(code.FSP([i.shape for i in stages(s)], [i.shape for i in stages(t)])(
        stages(s), stages(t)))),
    Row("nst", lambda code, _, s, t: sum(code.NSTLoss()(s.maps, t.maps))),
)  # fmt: skip

STAGE = Spec(1, ((64, 32, 32),), 0, stem=(64, 32, 32))  # ResNet-32x4's first on CIFAR
GREEDY = {  # batch, sizes of both networks, and the objective
    "rkd": (1024, Spec(512, (), 0), Row("rkd", lambda code, _, s, t: code.RKDLoss()(s.embedding, t.embedding))),
    **{row.name: (64, STAGE, row) for row in ROWS if row.name in ("nst", "fsp")},
}


def draw(spec: Spec, rows: int, *address: str, dtype: torch.dtype) -> tuple[Features, list[Tensor]]:
    """Features, and the leaves that they are made of."""
    random = generator("distillers", *address)
    sizes = [(spec.dim,), (spec.classes,), spec.stem or (0,), *spec.maps]
    leaves = [torch.randn(rows, *size, generator=random, dtype=dtype).requires_grad_() for size in sizes]
    embedding, logits, stem, *before = leaves
    return Features(embedding * 1, tuple(each.relu() for each in before), logits, stem.relu(), tuple(before)), leaves


def build(row: Row, student: Spec, teacher: Spec) -> Objective:
    """Our objective, its weights always the same."""
    torch.manual_seed(0)
    return OBJECTIVES.get(row.name)(student, teacher, 1000, **row.options)


def evaluate(row: Row, student: Features, teacher: Features, code: SimpleNamespace | None, ours: Objective) -> Tensor:
    """Our value, or the published code's where that is given."""
    if code is not None:
        return row.theirs(code, ours, student, teacher).squeeze() * row.factor
    rows = torch.arange(len(student.embedding))
    return ours(student, teacher, Batch({}, rows, rows % 10)).loss


def read_published(checkout: Path) -> SimpleNamespace:
    """Their losses and heads by name."""
    sys.path.insert(0, str(checkout))
    import distiller_zoo  # type: ignore[import-not-found]
    import models.util  # type: ignore[import-not-found]

    return SimpleNamespace(**(vars(models.util) | vars(distiller_zoo)))


# --- values ---


def compare(row: Row, code: SimpleNamespace) -> str:
    """A line of the table."""
    ours, found = build(row, STUDENT, TEACHER).double(), []
    for which in (None, code):
        student, leaves = draw(STUDENT, BATCH, "student", dtype=torch.float64)
        teacher, _ = draw(TEACHER, BATCH, "teacher", dtype=torch.float64)
        value = evaluate(row, student, Features(*map(_detach, teacher)), which, ours)
        grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        found.append((value.detach(), torch.cat([grad.flatten() for grad in grads])))
    (mine, slope), (other, expected) = found
    options = ", ".join(f"{name}: {value}" for name, value in row.options.items())
    return (
        f"| {row.name} | {abs(mine / other - 1):.0e} | {(slope - expected).norm() / expected.norm():.0e} | {mine:.8g} "
        f"| {other:.8g} | {row.factor:.5g} | {options} |"
    )


def _detach(item: Any) -> Any:
    return tuple(each.detach() for each in item) if isinstance(item, tuple) else item.detach()


# --- memory ---


def peak_bytes(name: str, checkout: Path | None) -> int:
    """Growth of this process's peak memory during a step, after a small one."""
    batch, spec, row = GREEDY[name]
    code, ours = read_published(checkout) if checkout else None, build(row, spec, spec)
    limit = _meminfo("/proc/self/status", "VmSize") + _meminfo("/proc/meminfo", "MemAvailable") - SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for rows in (4, batch):
        student, teacher = (draw(spec, rows, side, dtype=torch.float32)[0] for side in ("student", "teacher"))
        teacher = Features(*map(_detach, teacher))
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _meminfo("/proc/self/status", "VmRSS")
        evaluate(row, student, teacher, code, ours).backward()
    return _meminfo("/proc/self/status", "VmHWM") - before


def _meminfo(path: str, name: str) -> int:
    return 1024 * int(next(line for line in Path(path).read_text().splitlines() if line.startswith(name)).split()[1])


def measure_memory(name: str, checkout: Path | None) -> float | None:
    """The same in a process of its own, in MB; None where there is not enough."""
    words = [sys.executable, __file__, *([str(checkout)] if checkout else []), "--memory", name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and "allocate memory" not in done.stderr:
        raise RuntimeError(done.stderr)
    return int(done.stdout) / 1e6 if not done.returncode else None


def report(checkout: Path | None) -> None:
    """Both tables."""
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    if checkout is None:
        print(
            "No checkout to compare with: git clone https://github.com/HobbitLong/RepDistiller, and name its folder.\n"
        )
    else:
        print(f"Values at B={BATCH}, relative differences first\n")
        print("| objective | value | gradient | ours | theirs * factor | factor | options |")
        print("|---|---|---|---|---|---|---|")
        code = read_published(checkout)
        for row in ROWS:
            print(compare(row, code), flush=True)
        print()
    print("| objective | batch | of the published peak | MB | theirs, MB |\n|---|---|---|---|---|")
    for name, (batch, _, _) in GREEDY.items():
        ours, theirs = measure_memory(name, None), measure_memory(name, checkout) if checkout else None
        assert ours is not None
        most = (_meminfo("/proc/meminfo", "MemAvailable") - SPARE) / 1e6
        told = "not measured" if not checkout else f"over {most:.0f}" if theirs is None else f"{theirs:.0f}"
        ratio = "" if not checkout else f"under 1/{most / ours:.0f}" if theirs is None else f"1/{theirs / ours:.0f}"
        print(f"| {name} | {batch} | {ratio} | {ours:.0f} | {told} |", flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.nn")  # their size_average
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path)
    parser.add_argument("--memory", choices=GREEDY)
    options = parser.parse_args()
    if options.memory:
        print(peak_bytes(options.memory, options.checkout))
    else:
        report(options.checkout)
