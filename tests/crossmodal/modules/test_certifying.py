"""The parts of a certification: what a posterior pays, what its risk is the mean of, what is drawn."""

from pathlib import Path

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.certificates.certificate import certify
from crossmodal.certificates.gaussians import Gaussian, ScaleGrid, kl_divergence, spherical
from crossmodal.certificates.posterior import GaussianPosterior, with_fixed_statistics
from crossmodal.certificates.tuples import Tuples
from crossmodal.data.reader import open_view, read_pair, to_batch
from crossmodal.data.shards import Shards
from crossmodal.encoders import Features
from crossmodal.modules.certified_risk import Examples
from crossmodal.modules.certifying import Certifying, ExampleViews, Penalty, Projected, project_teacher
from crossmodal.objectives import Batch
from modalities.common.random import generator


def test_a_posterior_pays_for_leaving_its_prior_by_the_formula() -> None:
    encoder = ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=1, norm="group")
    network = GaussianPosterior(encoder, std=0.05)
    with torch.no_grad():
        network.means[0].add_(0.1)
    batch = Batch({"rgb": torch.randn(12, 3, 16, 16)}, torch.arange(12), torch.tensor([0, 1, 2] * 4))
    grid, tuples = ScaleGrid(), Tuples(negatives=1, block=1)
    module = Certifying(network, tuples, ExampleViews("rgb", "rgb"), Penalty(50.0, 0.05, grid))
    torch.manual_seed(1)
    losses = module(batch)
    torch.manual_seed(1)
    rows = network(batch.inputs["rgb"], network.draw()).embedding
    loss, _ = tuples.trained(rows, rows, batch.index, batch.label, 0)
    std = network.log_prior_std.double().exp()
    kl = kl_divergence(network.posterior, spherical(network.prior_mean, std))
    expected = loss + (kl + grid.union(grid.index(std)) - torch.tensor(0.05).double().log()) / 50
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    losses.total.backward()
    assert all(item.grad is not None and item.grad.abs().sum() > 0 for item in
               (*network.means, *network.log_stds, network.log_prior_std))  # fmt: skip


def test_a_scale_at_its_limit_is_not_driven_beyond_it() -> None:
    encoder = ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=1, norm="group")
    network = GaussianPosterior(encoder, std=2.0)
    total, figures = Penalty(1.0, 0.05, ScaleGrid())(network, torch.zeros(()))
    assert figures["prior_std"] == ScaleGrid().std(1) and total.isfinite()
    total.backward()
    assert network.log_prior_std.grad == 0


def test_risk_is_the_mean_over_pieces_each_with_its_own_weights(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards.open(synthetic / "test")
    views = {"rgb": open_view(shards, "rgb", size=16)}
    tuples = Tuples(negatives=1, block=1)
    examples = Examples.plan(shards, views, tuples, at_once=3)
    network = GaussianPosterior(ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=1, norm="group"), std=0.3)
    drawn, draw = [], network.draw
    monkeypatch.setattr(network, "draw", lambda random: drawn.append(draw(random)) or drawn[-1])
    risk, draws = examples.risk(
        network, ExampleViews("rgb", "rgb"), device=torch.device("cpu"), draws=len(examples.rows) + 1
    )
    assert draws == len(drawn) == 2 * len(examples.rows)
    assert len({float(next(iter(weights.values())).sum()) for weights in drawn}) == draws
    losses = []
    for weights, piece in zip(drawn, [*examples.rows, *examples.rows], strict=True):
        for example in piece.tolist():
            rows = [network(to_batch(read_pair(shards, views, index), views, "cpu").inputs["rgb"], weights).embedding
                    for index in example]  # fmt: skip
            losses.append(float((rows[0] @ (rows[1] - rows[2]).T) <= 0))
    assert risk == pytest.approx(sum(losses) / len(losses))


def test_fixed_statistics_change_nothing_and_stay() -> None:
    encoder = ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=2)
    encoder.train()(torch.randn(8, 3, 16, 16, generator=generator("statistics")))
    fixed, pictures = with_fixed_statistics(encoder), torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(fixed(pictures).embedding, encoder.eval()(pictures).embedding)
    before = {name: item.clone() for name, item in fixed.named_buffers()}
    fixed.train()(pictures)
    assert all(torch.equal(item, before[name]) for name, item in fixed.named_buffers())
    GaussianPosterior(fixed)


def test_a_student_is_seen_through_its_head_and_only_what_counts_is_drawn() -> None:
    from crossmodal import OBJECTIVES
    from crossmodal.encoders import Spec

    student = ENCODERS.get("convnet")((1, 16, 16), 3, width=4, stages=1, norm="group")
    head = OBJECTIVES.get("crd")(student.spec, Spec(6, (), 0), 10, dim=5)
    seen = Projected(student, head, 6, (1, 16, 16))
    pictures, teacher = torch.randn(4, 1, 16, 16), Features(torch.randn(4, 6), (), None)
    ours, theirs = head.project(student(pictures), teacher)
    torch.testing.assert_close(seen(pictures).embedding, ours)
    torch.testing.assert_close(project_teacher(head, student.spec.dim, teacher), theirs)
    names = GaussianPosterior(seen).names
    assert any(name.startswith("head.") for name in names) and not any("teacher" in name for name in names)
    assert not any("classifier" in name or "logits" in name for name in names)


def test_bounds_hold_for_a_posterior_of_known_risk() -> None:
    """Weights on a line: one pair's loss is 1 where a drawn weight is above the pair's number, which is uniform."""
    posterior, prior = (Gaussian({"w": torch.tensor([mean])}, {"w": torch.tensor([0.05])}) for mean in (0.25, 0.3))
    kl, broken, random = kl_divergence(posterior, prior).item(), 0, generator("known risk")
    for _ in range(200):
        pairs = torch.rand(60, generator=random)
        weights = 0.25 + 0.05 * torch.randn(240, generator=random)
        losses = (weights[:, None].clamp(0, 1) > pairs.repeat(4)[:, None].view(240, 1)).double()
        found = certify(losses.mean().item(), kl, examples=60, draws=240)
        broken += found.total < 0.25
    assert broken <= 10
