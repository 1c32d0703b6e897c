"""Between a config and the library's objects: teachers, maps that cannot be laid over, options that are not given."""

import inspect
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from crossmodal import ENCODERS, OBJECTIVES, models
from crossmodal.data.manifest import Manifest
from crossmodal.data.views import Crop, Draws, View
from crossmodal.encoders import Features
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.objectives import Batch, Objective, Outcome
from modalities import MODALITIES
from pipelines.building.data import open_parts
from pipelines.building.objectives import build_phases, build_terms, check_alignment
from pipelines.building.pretraining import spread_views
from pipelines.building.teachers import Teacher, build_teachers
from pipelines.config import ConfigError, load, to_dict, to_plain, to_yaml
from pipelines.config.fields import CATALOGUES
from pipelines.pretrain import Config as PretrainConfig
from pipelines.schemas.common import (
    EncoderConfig,
    HeldOutConfig,
    ObjectiveConfig,
    StudentConfig,
    TeacherConfig,
    ViewConfig,
)
from pipelines.schemas.pretrain import MultiviewConfig

HELD = Manifest(4, ["a", "b", "c"], {}, [], {})  # without labels
ENCODER = ENCODERS.get("convnet")((1, 32, 32), 0, width=4, stages=2)


def view(modality: str, *, aligned: bool = True, **options: object) -> View:
    return View(MODALITIES.get(modality)(**options), aligned)


def check(name: str, student: View, teacher: View, **options: object) -> None:
    term = Term(OBJECTIVES.get(name)(ENCODER.spec, ENCODER.spec, 4, **options), teacher="old")
    teachers = {"other": Teacher(ENCODER, "own", []), "old": Teacher(ENCODER, "theirs", [])}
    check_alignment({"first.old": term}, "own", teachers, {"own": student, "theirs": teacher})


def test_maps_of_a_picture_and_of_sound_are_not_compared() -> None:
    words = (
        "objectives.first compares maps place by place, but view 'own' gives a picture and view 'theirs' a "
        "spectrogram; take an objective on embeddings"
    )
    with pytest.raises(ConfigError, match=words):
        check("at", view("depth"), view("audio"))


@pytest.mark.parametrize(("own", "theirs"), [(True, False), (False, True), (False, False)])
def test_maps_of_views_with_windows_of_their_own_are_not_compared(own: bool, theirs: bool) -> None:
    with pytest.raises(ConfigError, match=r"objectives.first .* views 'own' and 'theirs' must both be aligned"):
        check("at", view("depth", aligned=own), view("rgb", aligned=theirs))


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({"height": 24, "width": 32}, {"size": 32}),
        ({"height": 24, "width": 32}, {"height": 32, "width": 24}),
        ({"size": 24}, {"size": 32, "fit": "stretch"}),
    ],
)
def test_maps_of_views_that_show_different_regions_are_not_compared(
    own: dict[str, Any], theirs: dict[str, Any]
) -> None:
    words = r"objectives.first compares maps place by place, but views 'own' \(24 x .*\) and 'theirs' \(32 x .*, fit: "
    for first, second in ((own, theirs), (theirs, own)):
        with pytest.raises(ConfigError, match=words if first is own else "give both the same height : width"):
            check("at", view("depth", **first), view("rgb", **second))
    check("fitnet", view("depth", **own), view("rgb", **theirs), on="embedding")


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({"height": 24, "width": 32}, {"height": 48, "width": 64}),
        ({"height": 100, "width": 133}, {"height": 75, "width": 100}),  # as near as whole pixels come
        ({"height": 24, "width": 32, "fit": "stretch"}, {"size": 32, "fit": "stretch"}),
    ],
)
def test_maps_of_views_that_show_one_region_are_compared(own: dict[str, Any], theirs: dict[str, Any]) -> None:
    check("at", view("depth", **own), view("rgb", **theirs))


def test_maps_of_aligned_pictures_are_compared_and_embeddings_of_anything() -> None:
    check("at", view("depth"), view("rgb"))
    check("fitnet", view("depth", aligned=False), view("audio"), on="embedding")


def test_one_view_is_aligned_with_itself() -> None:
    term = Term(OBJECTIVES.get("at")(ENCODER.spec, ENCODER.spec, 4), teacher="old")
    check_alignment({"at": term}, "own", {"old": Teacher(ENCODER, "own", [])}, {"own": view("rgb", aligned=False)})


def test_an_ensemble_is_the_sum_over_its_teachers_by_their_weights() -> None:
    student, network = torch.randn(4, 3), ENCODERS.get("convnet")((1, 32, 32), 3, width=4, stages=2)
    teachers = {name: Teacher(network, name, [], weight) for name, weight in (("rgb", 1.0), ("light", 3.0))}
    logits = {name: torch.randn(4, 3) for name in teachers}
    terms = build_terms({"kd": ObjectiveConfig("kd", weight=0.5)}, network.spec, teachers, HELD)
    assert {name: term.teacher for name, term in terms.items()} == {"kd.rgb": "rgb", "kd.light": "light"}
    batch, own = Batch({}, torch.arange(4), torch.zeros(4, dtype=torch.int64)), Features(torch.randn(4, 8), (), student)
    found = sum(
        term.weight * term.objective(own, Features(torch.randn(4, 8), (), logits[term.teacher]), batch).loss
        for term in terms.values()
    )
    kl = {name: F.kl_div((student / 4).log_softmax(1), (theirs / 4).softmax(1), reduction="batchmean") * 16
          for name, theirs in logits.items()}  # fmt: skip
    torch.testing.assert_close(found, 0.5 * (kl["rgb"] + 3 * kl["light"]))


@pytest.mark.parametrize(("classes", "names"), [(0, ["cross_entropy"]), (3, ["kd", "cross_entropy"]), (3, ["dkd"])])
def test_labels_that_are_needed_and_not_there_are_refused_by_name(classes: int, names: list[str]) -> None:
    network = ENCODERS.get("convnet")((1, 32, 32), classes, width=4, stages=2)
    asked = {name: ObjectiveConfig(name) for name in names}
    with pytest.raises(ConfigError, match=f"^objectives.{names[-1]} needs labels, and the pairs have none$"):
        build_terms(asked, network.spec, {"rgb": Teacher(network, "rgb", [])}, HELD)


def test_some_labels_are_enough() -> None:
    network = ENCODERS.get("convnet")((1, 32, 32), 3, width=4, stages=2)
    asked = {"cross_entropy": ObjectiveConfig("cross_entropy")}
    assert list(build_terms(asked, network.spec, {}, replace(HELD, labels={"a": 1}))) == ["cross_entropy"]


@pytest.mark.parametrize("name", ["ab", "ft"])
def test_what_weighs_nothing_is_not_prepared(name: str) -> None:
    def phases(**weights: float) -> list[list[str]]:
        asked = {key: ObjectiveConfig(key, weight) for key, weight in weights.items()}
        terms = build_terms(asked, ENCODER.spec, {"rgb": Teacher(ENCODER, "rgb", [])}, HELD)
        return [[] if phase is None else list(phase.terms) for phase in build_phases(ENCODER, "rgb", terms)]

    stays = [] if name == "ab" else [name]
    assert phases(**{name: 1.0, "at": 1.0}) == [[name], [*stays, "at"]]
    assert phases(**{name: 0.0, "at": 1.0}) == [[], [*stays, "at"]]
    for weights in ({name: 0.0}, {name: 0.0, "at": 0.0}, {"ab": 1.0, "at": 0.0}):
        with pytest.raises(ConfigError, match=r"^objectives: all weights are 0"):
            phases(**weights)


@pytest.mark.parametrize("chunk", [None, 2])
def test_teachers_of_no_weight_teach_nothing(chunk: int | None) -> None:
    teachers = {"rgb": Teacher(ENCODER, "rgb", [], 0.0)}
    with pytest.raises(
        ConfigError, match=r"objectives.pkt: its teachers, rgb, all weigh 0; raise teachers.NAME.weight"
    ):
        build_terms({"pkt": ObjectiveConfig("pkt")}, ENCODER.spec, teachers, HELD, chunk=chunk)


@pytest.mark.parametrize(
    ("catalogue", "schema", "key"),
    [
        ("modalities", ViewConfig, "modality"),
        ("encoders", EncoderConfig, "name"),
        ("objectives", ObjectiveConfig, "name"),
        ("multiview", MultiviewConfig, "name"),
    ],
)
def test_a_whole_config_has_the_defaults_of_an_entry_and_reads_back(
    catalogue: str, schema: type, key: str, tmp_path: Path
) -> None:

    def read(text: str) -> Any:
        (tmp_path / "x.yaml").write_text(text)
        return load(schema, tmp_path / "x.yaml")

    for name in CATALOGUES[catalogue].names():
        config = read(f"{key}: {name}")
        whole = read(to_yaml(config, whole=True))
        options = CATALOGUES[catalogue].options(name).keys()
        stored = set(MODALITIES.get(name).stored) if catalogue == "modalities" else set()
        stored |= {*getattr(CATALOGUES[catalogue].get(name), "added", ())}  # else runs of before would be others now
        assert replace(whole, options={}) == config and whole.options.keys() == options - stored
        assert to_dict(whole) == to_dict(config, whole=True) == to_dict(whole, whole=True)
        entry = CATALOGUES[catalogue].get(name)
        for option, parameter in inspect.signature(entry).parameters.items():
            if option in whole.options:
                assert to_plain(whole.options[option]) == to_plain(parameter.default)


RGB = View(MODALITIES.get("rgb")(size=8))


@pytest.mark.parametrize("published", [False, True])  # a file of weights for a named encoder, or a model of ours
def test_a_teacher_is_frozen_in_eval_mode_and_sees_its_own_view(tmp_path: Path, published: bool) -> None:
    options: dict[str, Any] = {
        "width": 4,
        "stages": 1,
    }  # with batch norm, which would follow the batch in training mode
    network = ENCODERS.get("convnet")((3, 8, 8), 0, **options)
    card = models.Card("convnet", options, (3, 8, 8), [], "rgb", asdict(RGB.modality))
    models.save_model(tmp_path / "teacher", card, network, {})
    config = TeacherConfig(view="theirs", weights=str(tmp_path / "teacher"))
    if published:
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, tmp_path / "weights.safetensors")
        config = replace(config, weights=str(tmp_path / "weights.safetensors"),
                         encoder=EncoderConfig("convnet", options))  # fmt: skip
    teacher = build_teachers({"t": config}, {"own": RGB, "theirs": RGB})["t"]
    assert not any(module.training for module in teacher.encoder.modules())
    assert not any(weight.requires_grad for weight in teacher.encoder.parameters())
    inputs = {name: torch.randn(3, 3, 8, 8).requires_grad_() for name in ("own", "theirs")}
    found = teacher.forward(Batch(inputs, torch.arange(3), torch.zeros(3).long()))
    assert (
        torch.equal(found.embedding, network.eval()(inputs["theirs"]).embedding) and not found.embedding.requires_grad
    )


class Heard(Objective):
    """Notes whom it compares."""

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """Nothing to minimise."""
        self.heard = student, teacher
        return Outcome(student.embedding.sum() * 0)


def test_each_term_compares_the_student_with_its_own_teacher() -> None:
    terms = {name: Term(Heard(), teacher=teacher) for name, teacher in (("a", "rgb"), ("b", "light"), ("c", "rgb"))}
    teachers = {name: Features(torch.randn(2, 4), (), None) for name in ("rgb", "light")}
    module = Transfer(ENCODER, "depth", terms)
    module(Batch({"depth": torch.randn(2, 1, 32, 32)}, torch.arange(2), torch.zeros(2).long()), teachers)
    assert [term.objective.heard[1] is teachers[term.teacher or ""] for term in terms.values()] == [True] * 3


def test_chunks_give_objectives_the_features_of_all_rows_in_their_order() -> None:
    student = ENCODERS.get("convnet")((1, 32, 32), 3, width=4, stages=2, norm="none")
    inputs = torch.randn(5, 1, 32, 32)
    module = Transfer(student, "depth", {"a": Term(Heard())}, chunk=2)
    module(Batch({"depth": inputs}, torch.arange(5), torch.zeros(5).long()), {})
    whole, found = student(inputs), module.terms["a"].objective.heard[0]
    torch.testing.assert_close(found.embedding, whole.embedding)
    torch.testing.assert_close(found.logits, whole.logits)


def test_a_preparation_weighs_as_its_objective_does_unless_it_trains_something_else() -> None:
    spec = ENCODERS.get("convnet")((3, 32, 32), 0, width=4, stages=2).spec
    terms = {name: Term(OBJECTIVES.get(name)(spec, spec, 4, **options), 3.0, "t")
             for name, options in (("fsp", {"when": "both"}), ("ft", {}))}  # fmt: skip
    before, _ = build_phases(ENCODERS.get("convnet")((3, 32, 32), 0, width=4, stages=2), "rgb", terms)
    assert before is not None and before.weights == {"fsp": 3.0, "ft": 1.0}


def test_what_is_held_out_is_learnt_from_by_nobody_and_depends_on_its_own_seed(synthetic: Path) -> None:
    keys = lambda part: {part.locate(index)[1].key for index in range(len(part))}  # noqa: E731
    held = {}
    for seed in (0, 1):
        rest, out = open_parts(str(synthetic / "train"), HeldOutConfig(0.25, seed), "data")
        assert out is not None and len(rest) + len(out) == 96 and keys(rest).isdisjoint(keys(out))
        held[seed] = keys(out)
    assert held[0] != held[1]


def test_every_look_of_an_encoder_has_a_window_of_its_own() -> None:
    config = PretrainConfig("data", {"rgb": ViewConfig("rgb")}, {"rgb": StudentConfig("rgb", EncoderConfig("convnet"))},
                            {"infonce": MultiviewConfig("infonce")}, crops=3)  # fmt: skip
    views = spread_views(config, {"rgb": RGB})
    assert {name: view.crop for name, view in views.items()} == {"rgb.0": 0, "rgb.1": 1, "rgb.2": 2}
    windows = {Draws(Crop(), 0, 0, "key").window(name, view) for name, view in views.items()}
    assert len(windows) == 3
