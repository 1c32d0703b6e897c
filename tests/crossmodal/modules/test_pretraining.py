"""Pretraining: who meets whom, cached gradients, slow encoders and stages, against what they are claimed to equal."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from pretrained import ROWS, SHAPE, Heard, build, build_local, gradients, joint
from torch import Tensor, nn

from crossmodal import ENCODERS
from crossmodal.contrast.options import Negatives
from crossmodal.modules.pretraining import Branch, LocalPretraining, Pretraining, check_stages, find_pairings, name_crop
from crossmodal.modules.projector import MapProjector, Projector
from crossmodal.multiview import Views
from crossmodal.objectives import Batch
from modalities.common.random import generator

NAMES = ["rgb", "depth", "audio"]
GRAPHS = [(encoders, crops) for encoders in (1, 2, 3) for crops in (1, 2, 3)]


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert theirs and ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-9, rtol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def heard(module: Pretraining) -> Views:
    said = module.learners["said"]
    assert isinstance(said, Heard) and said.views is not None
    return said.views


# --- who meets whom ---


@pytest.mark.parametrize(("encoders", "crops"), GRAPHS)
def test_as_many_meet_as_the_graph_says(encoders: int, crops: int) -> None:
    names = NAMES[:encoders]
    counts = {
        "full": encoders * crops * (encoders * crops - 1),
        "across": encoders * (encoders - 1) * crops**2,
        "core": 2 * (encoders - 1) * crops**2,
    }
    for graph, count in counts.items():
        core = names[0] if graph == "core" else None
        if not count and crops > 1:
            with pytest.raises(ValueError, match="no two views are compared; set graph: full, or use two encoders"):
                find_pairings(names, crops, graph=graph, core=core, symmetric=True)
            continue
        both = find_pairings(names, crops, graph=graph, core=core, symmetric=True)
        assert len(set(both)) == len(both) == count
        assert {other for _, other in both} <= set(range(encoders * crops))
        first = find_pairings(names, crops, graph=graph, core=core, symmetric=False)
        assert sorted(first) == sorted(pair for pair in both if pair[0] < pair[1])


def test_the_core_meets_all_others_and_these_do_not_meet() -> None:
    pairings = find_pairings(NAMES, 2, graph="core", core="depth", symmetric=True)
    assert {frozenset(pair) for pair in pairings} == {
        frozenset((one, other)) for one in (2, 3) for other in (0, 1, 4, 5)
    }
    across = find_pairings(NAMES, 2, graph="across", core=None, symmetric=True)
    assert not {frozenset(pair) for pair in across} & {frozenset((0, 1)), frozenset((2, 3)), frozenset((4, 5))}


def test_of_two_encoders_with_a_look_each_the_core_is_all_there_is() -> None:
    graphs = {find_pairings(NAMES[:2], 1, graph=graph, core=core, symmetric=True)
              for graph, core in (("core", "rgb"), ("core", "depth"), ("across", None), ("full", None))}  # fmt: skip
    assert graphs == {((0, 1), (1, 0))}


@pytest.mark.parametrize("modalities", range(2, 6))
def test_cmc_s_core_view_has_fewer_pairs_than_its_full_graph(modalities: int) -> None:
    names = [f"view{number}" for number in range(modalities)]
    core = find_pairings(names, 1, graph="core", core="view0", symmetric=False)
    full = find_pairings(names, 1, graph="across", core=None, symmetric=False)
    assert len(core) == modalities - 1 and sorted(full) == sorted(combinations(range(modalities), 2))


@pytest.mark.parametrize(("graph", "core"), [("core", None), ("core", "sound"), ("full", "rgb"), ("across", "sound")])
def test_a_core_belongs_to_its_graph(graph: str, core: str | None) -> None:
    with pytest.raises(ValueError, match=f"one of the encoders, rgb, depth, with graph: core .* graph: {graph} and"):
        find_pairings(NAMES[:2], 1, graph=graph, core=core, symmetric=True)


# --- what is compared ---


def test_two_looks_of_one_encoder_are_nt_xent() -> None:
    module, batch = build("rgb"), joint("rgb")
    with torch.no_grad():
        rows = torch.cat([F.normalize(module.heads["rgb"](module.encoders["rgb"](batch.inputs[view]).embedding), dim=1)
                          for view in ("rgb.0", "rgb.1")])  # fmt: skip
    scores = [[float(one @ other) / 0.1 for other in rows] for one in rows]
    expected = 0.0
    for anchor in range(2 * ROWS):
        total = sum(math.exp(score) for other, score in enumerate(scores[anchor]) if other != anchor)
        expected += (math.log(total) - scores[anchor][(anchor + ROWS) % (2 * ROWS)]) / (2 * ROWS)
    losses = module(batch)
    assert losses.total.item() == pytest.approx(0.7 * expected, rel=1e-6)  # 1 / 0.1 in float32
    assert losses.outcomes["said"].loss.item() == pytest.approx(expected, rel=1e-6)


def test_views_come_encoder_by_encoder_and_look_by_look() -> None:
    module, batch = build("rgb", "depth", objective=Heard()), joint("rgb", "depth")
    module(batch)
    views = heard(module)
    assert views.keys is views.queries and views.index is batch.index and views.seed == batch.seed
    for number, (name, crop) in enumerate((name, crop) for name in ("rgb", "depth") for crop in range(2)):
        alone = module.heads[name](module.encoders[name](batch.inputs[name_crop(name, crop)]).embedding)
        torch.testing.assert_close(views.queries[number], F.normalize(alone, dim=1))


# --- chunks ---

CHUNKED = {
    "one": {},
    "two": {"names": ("rgb", "depth")},
    "momentum": {"momentum": 0.9, "predicted": True},
    "queue": {"momentum": 0.9, "negatives": Negatives("queue", count=10)},
}


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("variant", CHUNKED)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_equal_the_whole_batch(chunk: int, variant: str, norm: str) -> None:
    options = dict(CHUNKED[variant])
    names = options.pop("names", ("rgb",))
    found = []
    for size in (None, chunk):
        module, batch = build(*names, norm=norm, chunk=size, **options), joint(*names)
        module.remember([module(batch)])  # so that a queue holds something
        losses = module(batch)
        losses.total.backward()
        memo = {f"memo {place}": item for place, item in enumerate(losses.outcomes["said"].memo)}
        found.append(gradients(module) | losses.figures() | memo)
    assert_close(*found)


def test_chunks_in_half_precision_are_nearly_the_whole_batch() -> None:
    found = []
    for chunk in (None, 3):
        module, batch = build("rgb", chunk=chunk, stages=3).float(), joint("rgb")
        inputs = {view: item.float() for view, item in batch.inputs.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = module(replace(batch, inputs=inputs))
        losses.total.backward()
        found.append(gradients(module))
    for name, gradient in found[0].items():
        assert gradient.dtype == torch.float32 and gradient.any()
        assert (found[1][name] - gradient).norm() < 0.02 * gradient.norm(), name


def test_chunks_without_gradient_are_the_whole_batch() -> None:
    with torch.no_grad():
        assert_close(*(build("rgb", chunk=chunk)(joint("rgb")).figures() for chunk in (None, 3)))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"norm": "batch"}, r"encoders\.rgb\.trunk\.stem\.1"),
        ({"norm": "batch", "momentum": 0.9}, r"encoders\.rgb\.trunk\.stem\.1"),
        ({"head_norm": True}, r"heads\.rgb\.1"),
    ],
)
def test_chunks_refuse_batch_norm_by_name(options: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=f"but {name} is batch normalisation; set norm: group"):
        build("rgb", chunk=4, **options)


@pytest.mark.parametrize("options", [{"chunk": 0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_chunk_and_momentum_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1 and momentum from 0 to below 1, got"):
        build("rgb", **options)


def test_predictors_without_momentum_are_refused() -> None:
    with pytest.raises(ValueError, match="predictors belong to encoders with momentum, got rgb with momentum None"):
        build("rgb", predicted=True)


# --- pairs without some views ---


def lacking(*there: bool) -> Batch:
    """RGB of all pairs, depth of some; what is absent is 0."""
    batch, present = joint("rgb", "depth", rows=len(there)), torch.tensor(there)
    inputs = {name: item * present[:, None, None, None] if "depth" in name else item
              for name, item in batch.inputs.items()}  # fmt: skip
    sees = {name: present if "depth" in name else torch.ones_like(present) for name in inputs}
    return replace(batch, inputs=inputs, present=sees)


@pytest.mark.parametrize("crops", [1, 2])
@pytest.mark.parametrize("there", [(False,) * 4, (False, True, False, False)], ids=["none", "one"])
def test_of_fewer_than_two_pairs_batch_norm_learns_nothing(there: tuple[bool, ...], crops: int) -> None:
    module, batch = build("rgb", "depth", crops=crops, norm="batch", head_norm=True, momentum=0.9), lacking(*there)
    module(lacking(True, True, False, True))
    depth = {name: item.clone() for name, item in module.named_buffers() if "depth" in name}
    assert len(depth) > 4
    module(batch).total.backward()
    for name, item in module.named_buffers():
        assert "depth" not in name or torch.equal(item, depth[name]), name
    asked = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in asked.values())
    assert any(gradient.any() for name, gradient in asked.items() if "depth" in name) == any(there)
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_pairs_that_are_there_pass_as_if_they_were_alone(norm: str) -> None:
    module = build("rgb", "depth", objective=Heard(), norm=norm)
    there = torch.tensor([True, False, True, True, False])
    batch = lacking(*there.tolist())
    module(batch)
    some = heard(module).queries[2:, there]
    inputs = {name: item[there] for name, item in batch.inputs.items()}
    module(Batch(inputs, batch.index[there], batch.label[there]))
    torch.testing.assert_close(some, heard(module).queries[2:])


# --- slow encoders ---


def test_slow_weights_follow_by_the_formula_and_get_no_gradient() -> None:
    module, batch = build("rgb", "depth", momentum=0.9), joint("rgb", "depth")
    quick = {name: weight for name, weight in module.named_parameters() if not name.startswith("slow.")}
    before = {name: module.state_dict()[f"slow.{name}"].clone() for name in quick}
    assert all(torch.equal(before[name], weight) for name, weight in quick.items())
    losses = module(batch)
    losses.total.backward()
    torch.optim.SGD(module.parameters(), lr=0.5).step()
    module.remember([losses])
    for name, weight in quick.items():
        slow = module.get_parameter(f"slow.{name}")
        assert slow.grad is None and not slow.requires_grad and weight.grad.any()
        torch.testing.assert_close(slow, 0.9 * before[name] + 0.1 * weight.detach())


def test_without_symmetry_slow_and_quick_encoders_see_half_each() -> None:
    options, batch = {"momentum": 0.9, "negatives": Negatives("queue", count=10), "norm": "batch"}, joint("rgb")
    whole, half = (build("rgb", symmetric=symmetric, **options) for symmetric in (True, False))
    seen: dict[str, list[Tensor]] = {"quick": [], "slow": []}
    half.encoders["rgb"].register_forward_hook(lambda _, inputs, __: seen["quick"].append(inputs[0]))
    half.slow["encoders"]["rgb"].register_forward_hook(lambda _, inputs, __: seen["slow"].append(inputs[0]))
    for module in (whole, half):
        module.remember([module(batch)])
    assert torch.equal(seen["quick"][0], batch.inputs["rgb.0"]) and torch.equal(seen["slow"][0], batch.inputs["rgb.1"])
    assert {name.partition("_")[0] for name in whole.memory()} == {"said.view0", "said.view1"}
    assert {name.partition("_")[0] for name in half.memory()} == {"said.view1"}
    assert half.memory()["said.view1_rows"][:ROWS].any(1).all()


def test_negatives_of_every_view_keep_slow_encoders_on_all_looks() -> None:
    gathered, asked = Negatives("gathered"), {"momentum": 0.9, "symmetric": False}
    module, batch = build("rgb", negatives=gathered, **asked), joint("rgb")
    views = build("rgb", objective=Heard(), momentum=0.9)
    views(batch)
    keys, queries = heard(views).keys, heard(views).queries
    scores = (queries[0] @ keys.flatten(0, 1).T / 0.1).exp()
    own = scores[torch.arange(ROWS), ROWS + torch.arange(ROWS)]
    alike = scores[torch.arange(ROWS), torch.arange(ROWS)]
    expected = -(own / (scores.sum(1) - alike)).log().mean()
    assert module(batch).total.item() == pytest.approx(0.7 * expected.item(), rel=1e-6)


def test_an_encoder_that_would_never_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder depth would learn nothing: with momentum only anchors do"):
        build("rgb", "depth", crops=1, momentum=0.9, symmetric=False)
    build("rgb", "depth", crops=1, symmetric=False)


def test_keys_come_from_slow_encoders_and_without_gradient() -> None:
    module, batch = build("rgb", objective=Heard(), momentum=0.9, norm="batch"), joint("rgb")
    module(batch)
    before = heard(module)
    assert before.queries.requires_grad and not before.keys.requires_grad
    torch.testing.assert_close(before.keys, before.queries.detach())
    with torch.no_grad():
        for weight in module.slow.parameters():
            weight.add_(0.1)
    module(batch)
    assert torch.equal(heard(module).queries, before.queries) and not torch.allclose(heard(module).keys, before.keys)


def test_a_predictor_stands_before_queries_only() -> None:
    module, batch = build("rgb", objective=Heard(), momentum=0.9, predicted=True), joint("rgb")
    module(batch)
    vectors = module.heads["rgb"](module.encoders["rgb"](batch.inputs["rgb.0"]).embedding)
    torch.testing.assert_close(heard(module).queries[0], F.normalize(module.predictors["rgb"](vectors), dim=1))
    torch.testing.assert_close(heard(module).keys[0], F.normalize(vectors.detach(), dim=1))
    assert not any("predictor" in name for name in module.slow.state_dict())


# --- stages ---


@pytest.mark.parametrize("unit", [1, 2, 3, 4])
def test_figures_are_named_by_their_stage(unit: int) -> None:
    module = build_local(unit, negatives=Negatives("queue", count=10))
    losses = module(joint("rgb"))
    figures, stages = losses.figures(), range(unit, 5)
    assert {name for name in figures if name.startswith("said")} == {f"said.stage{stage}" for stage in stages}
    assert {name for name in figures if name.startswith("rank")} == {f"rank.stage{stage}" for stage in stages}
    torch.testing.assert_close(figures["loss"], 0.7 * sum(figures[f"said.stage{stage}"] for stage in stages))
    module.remember([losses])
    assert all(module.memory()[f"said.stage{stage}.view1_index"].max() >= 0 for stage in stages)


def test_a_unit_of_all_stages_is_pretraining() -> None:
    local, whole = build_local(4, block=False, norm="batch"), build("rgb", norm="batch")
    whole.encoders["rgb"].load_state_dict(local.encoder.state_dict())
    whole.heads["rgb"].load_state_dict(local.heads[0].projector.state_dict())
    for module in (local, whole):
        module(joint("rgb")).total.backward()
    assert_close(gradients(local.encoder), gradients(whole.encoders["rgb"]))
    assert_close(gradients(local.heads[0].projector), gradients(whole.heads["rgb"]))
    assert local.trained["encoder"] is local.encoder and whole.trained["rgb"] is whole.encoders["rgb"]


def test_stages_without_gradient_give_the_same_figures() -> None:
    module, batch = build_local(), joint("rgb")
    with torch.no_grad():
        alone = module(batch).figures()
    assert_close(alone, module(batch).figures())


def test_under_autocast_stages_are_compared_in_float32() -> None:
    module, batch = build_local(objective=Heard).float(), joint("rgb")
    inputs = {view: item.float() for view, item in batch.inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module(Batch(inputs, batch.index, batch.label))
    losses.total.backward()
    assert {learner.views.queries.dtype for learner in module.learners.values()} == {torch.float32}
    assert {outcome.loss.dtype for outcome in losses.outcomes.values()} == {torch.float32}
    assert all(gradient.dtype == torch.float32 for gradient in gradients(module).values())


@pytest.mark.parametrize("unit", [0, 5])
def test_units_of_no_stage_or_too_many_are_refused(unit: int) -> None:
    encoder = ENCODERS.get("convnet")(SHAPE, 0, width=4)
    with pytest.raises(ValueError, match=f"unit must be from 1 to the encoder's 4 stages, got {unit}"):
        check_stages(encoder, unit)


@pytest.mark.parametrize("name", ["cifar_mobilenet", "cifar_shufflenet_v2", "cifar_wrn"])
def test_encoders_with_weights_that_no_stage_trains_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="has weights between its last map and the embedding"):
        check_stages(ENCODERS.get(name)((1, 32, 32), 0), 2)


def test_timm_s_encoders_are_refused() -> None:
    pytest.importorskip("timm")
    encoder = ENCODERS.get("timm")((1, 32, 32), 0, model="resnet10t")
    with pytest.raises(ValueError, match="Timm cannot be split into stages"):
        check_stages(encoder, 2)


@pytest.mark.parametrize("short", ["heads", "said"])
def test_a_stage_without_head_or_objective_is_refused(short: str) -> None:
    module = build_local()
    heads, objectives = module.heads, [module.learners[f"said.stage{stage}"] for stage in (2, 3, 4)]
    if short == "heads":
        heads = heads[1:]
    else:
        objectives = objectives[1:]
    branch = Branch(module.encoder, "rgb", heads)
    with pytest.raises(ValueError, match=f"{short} must be 3, one for each stage from 2 on, got 2"):
        LocalPretraining(branch, {"said": objectives}, {"said": 1.0}, crops=2, pairings=module.pairings, unit=2)


# --- heads ---


def test_projectors_end_in_numbers_without_relu() -> None:
    plain = Projector(4, layers=2, hidden=8, dim=3, norm=False)
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    assert [layer.weight.shape for layer in plain if isinstance(layer, nn.Linear)] == [(8, 4), (3, 8)]
    normed = Projector(4, layers=3, hidden=8, dim=3, norm=True)
    assert [type(layer).__name__ for layer in normed] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + [
        "Linear",
        "BatchNorm1d",
    ]
    assert normed[0].bias is None and normed[1].weight is not None and normed[-1].weight is None
    assert [type(layer).__name__ for layer in Projector(4, layers=1, hidden=8, dim=3, norm=False)] == ["Linear"]


def test_a_map_s_head_halves_it_and_takes_its_mean() -> None:
    head = MapProjector((4, 6, 6), block=True, layers=1, hidden=8, dim=3, norm=False)
    picture = torch.randn(2, 4, 6, 6, generator=generator("pretraining", "map"))
    assert head.block(picture).shape == (2, 4, 3, 3)
    for part in head.block.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.zeros_(part.weight)
    torch.testing.assert_close(head(picture), head.projector[0].bias.expand(2, 3))
    plain = MapProjector((4, 6, 6), block=False, layers=1, hidden=8, dim=3, norm=False)
    torch.testing.assert_close(plain(picture), plain.projector(picture.mean(dim=(2, 3))))


def test_keys_pass_slow_heads_and_queries_quick_ones() -> None:
    module, batch = build("rgb", objective=Heard(), momentum=0.9), joint("rgb")
    module(batch)
    before = heard(module)
    with torch.no_grad():
        for weight in module.slow["heads"].parameters():
            weight.add_(torch.randn(weight.shape, generator=generator("slow heads")))
    module(batch)
    assert torch.equal(heard(module).queries, before.queries) and not torch.allclose(heard(module).keys, before.keys)
