"""Configs: what is read, and that everything wrong is said at once, with its place."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from crossmodal import ENCODERS, EVALUATIONS, OBJECTIVES, SOURCES
from crossmodal.contrast.options import Negatives
from modalities import MODALITIES
from modalities.common.catalogue import Catalogue, Option
from pipelines.config import (
    ConfigError,
    FieldError,
    at,
    choice,
    differences,
    load,
    number,
    options_of,
    runtime_only,
    to_dict,
    to_yaml,
)
from pipelines.config.fields import CATALOGUES, evaluate
from pipelines.config.parse import dump, scalar


@dataclass(frozen=True)
class Network:
    """A network."""

    name: str = choice("encoders")  # which one
    options: dict[str, Any] = options_of("name", supplied=("classes",))


@dataclass(frozen=True)
class Term:
    """A summand."""

    name: str = choice("objectives", from_key=True)  # which one
    weight: float = 1.0  # factor
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class Train:
    """How to train."""

    epochs: int = 30  # passes over the data
    lr: float = 0.1  # learning rate
    schedule: Literal["cosine", "step"] = "cosine"  # of the rate
    scale: tuple[float, float] = (0.5, 1.0)  # least and greatest
    shuffle: bool = True  # whether to
    clip_norm: float | None = None  # null: no clipping
    workers: int = runtime_only(2)  # processes

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be above 0, got {self.epochs}")


@dataclass(frozen=True)
class Config:
    """A whole config."""

    data: str  # folder of shards
    seed: int = 0  # of everything
    limit: int | str = "all"  # pairs, or "all"
    sizes: tuple[int, ...] = ()  # pixels
    names: list[str] = field(default_factory=list)  # any
    network: Network | None = None  # the student
    terms: dict[str, Term] = field(default_factory=dict)  # what is minimised
    train: Train = field(default_factory=Train)  # how
    output: str = runtime_only("runs/x")  # folder
    tags: list[str] = runtime_only(factory=list)  # for the reader


@dataclass(frozen=True)
class Nested:
    """A config whose parts are all required."""

    train: Train  # how
    network: Network  # the student


@dataclass(frozen=True)
class Required:
    """One field of each kind, none with a default."""

    share: float | None  # of the data
    sizes: list[int]  # pixels
    names: dict[str, str]  # by name
    rest: Any  # whatever


@dataclass(frozen=True)
class Texts:
    """Text that may be empty and text that may not."""

    unit: str = ""  # of a number
    path: str = "p"  # folder


@dataclass(frozen=True)
class Unusual:
    """Types that are allowed but rare."""

    networks: dict[str, Network] = field(default_factory=dict)  # by a name of their own
    train: Train | int | None = None  # how, or only how long


@dataclass(frozen=True)
class Renamed:
    """A config some of whose keys had other names."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "folder": "data", "rate": "train.lr", "kd": "terms.kd", "hot": "terms.kd.temperature",
    }  # fmt: skip
    data: str  # folder of shards
    train: Train = field(default_factory=Train)  # how
    terms: dict[str, Term] = field(default_factory=dict)  # what is minimised


ENTRIES = {
    "encoders/convnet.py": '''
        class ConvNet(Encoder):
            """Some convolutions."""
            def __init__(self, shape, *, classes: int, width: int = 32, depth: int | None = None,
                         norm: Literal["batch", "group"] = "batch", stages: tuple[int, ...] = (1, 2)): ...
        ''',
    "encoders/dense.py": '''
        class Dense(Encoder):
            """A dense layer."""
            def __init__(
                self,
                shape,
                *,
                dim: int,  # length of the embedding
            ): ...
        ''',
    "objectives/crd.py": '''
        class CRD(Objective):
            """Contrast."""
            def __init__(self, *, temperature: float = 0.07, negatives: Negatives = Negatives()): ...
        ''',
    "objectives/kd.py": '''
        class KD(Objective):
            """Soft classes."""
            RENAMED: ClassVar[Mapping[str, str]] = {"softness": "temperature"}
            def __init__(self, *, temperature: float = 4.0): ...
        ''',
}


@pytest.fixture(autouse=True)
def catalogues(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path_factory.mktemp("entries")
    for name, source in ENTRIES.items():
        path = root / "throwaway" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setitem(CATALOGUES, "encoders", Catalogue("throwaway.encoders", "Encoder", "encoder"))
    monkeypatch.setitem(CATALOGUES, "objectives", Catalogue("throwaway.objectives", "Objective", "objective"))
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


def read(text: str, *overrides: str, schema: type = Config) -> Any:
    path = Path("x.yaml")
    path.write_text(text)
    return load(schema, path, overrides)


def problems(text: str, *overrides: str, schema: type = Config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides, schema=schema)
    return caught.value.problems


# what is read


def test_defaults_stand_where_nothing_is_said() -> None:
    assert read("data: d") == Config(data="d")


def test_every_kind_of_value_is_read() -> None:
    config = read(
        """
data: d
seed: 1_000
limit: 5
sizes: [64, 32]
names: [a, "1"]
network: {name: convnet, width: 8, stages: [3], norm: group, depth: null}
terms:
  crd: {weight: 2, temperature: 1}
train: {lr: 1e-3, scale: [0, .5], shuffle: false, clip_norm: 1, schedule: step}
"""
    )
    assert config == Config(
        data="d",
        seed=1000,
        limit=5,
        sizes=(64, 32),
        names=["a", "1"],
        network=Network("convnet", {"width": 8, "stages": (3,), "norm": "group", "depth": None}),
        terms={"crd": Term("crd", 2.0, {"temperature": 1.0})},
        train=Train(lr=1e-3, scale=(0.0, 0.5), shuffle=False, clip_norm=1.0, schedule="step"),
    )
    assert isinstance(config.terms["crd"].options["temperature"], float)


@pytest.mark.parametrize("value", ["1e-3", "1E-3", "0.001", ".001", "+1e-3", "1.0e-3"])
def test_every_spelling_of_a_number_is_a_number(value: str) -> None:
    assert read(f"data: d\ntrain: {{lr: {value}}}").train.lr == 0.001


def test_infinities_are_numbers_where_a_field_has_no_range() -> None:
    assert read("data: d\ntrain: {lr: .Inf}").train.lr == float("inf")
    assert read("data: d", "train.lr=-.inf").train.lr == float("-inf")


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "010", "0x10", "1:30", "2024-01-01", "1__0", "1_", "="]
)
def test_what_yaml_1_1_would_convert_is_text(text: str) -> None:
    assert read(f"data: {text}").data == text


def test_a_plain_name_stands_for_the_dataclass_it_chooses() -> None:
    assert read("data: d\nnetwork: convnet").network == Network("convnet")
    assert read("data: d\nterms: {first: crd}").terms == {"first": Term("crd")}


@pytest.mark.parametrize("entry", ["crd: {}", "crd:", "crd: null"])
def test_an_empty_entry_has_all_defaults(entry: str) -> None:
    assert read(f"data: d\nterms:\n  {entry}").terms == {"crd": Term("crd")}


def test_the_key_is_the_name_only_where_none_is_given() -> None:
    assert read("data: d\nterms: {soft: {name: kd}, crd: }").terms == {"soft": Term("kd"), "crd": Term("crd")}


def test_a_null_optional_dataclass_is_none() -> None:
    assert read("data: d\nnetwork: null").network is None


def test_a_required_dataclass_may_be_absent_when_its_fields_have_defaults() -> None:
    assert read("network: convnet", schema=Nested) == Nested(Train(), Network("convnet"))


def test_an_empty_file_is_a_config_of_overrides() -> None:
    assert read("", "data=d") == Config("d")


# overrides


def test_overrides_are_yaml_and_the_last_one_counts() -> None:
    config = read("data: d\ntrain: {clip_norm: 3}", "sizes=[1, 2]", "train.clip_norm=null", "seed=1", "seed=2")
    assert (config.sizes, config.train.clip_norm, config.seed) == ((1, 2), None, 2)


def test_an_override_of_text_needs_no_quotes() -> None:
    assert read("", "data=123").data == "123"
    assert read("", "data='1 2'").data == "1 2"


def test_an_override_takes_the_most_specific_of_several_types() -> None:
    assert read("data: d", "limit=12").limit == 12
    assert read("data: d", "limit=all").limit == "all"


def test_an_override_of_an_option_keeps_a_shorthand_name() -> None:
    assert read("data: d\nnetwork: convnet", "network.width=4").network == Network("convnet", {"width": 4})


def test_an_override_with_a_name_replaces_a_mapping() -> None:
    assert read("data: d\nnetwork: {name: dense, dim: 4}", "network=convnet").network == Network("convnet")


@pytest.mark.parametrize("override", ["network={name: dense, dim: 4}", "network.name=dense"])
def test_another_name_drops_the_options_that_files_gave_the_old_entry(override: str) -> None:
    Path("a.yaml").write_text("data: d\nnetwork: {name: convnet, stages: [3]}")
    text = "base: a.yaml\nnetwork: {width: 8}"
    assert read(text, "network.dim=4", override).network == Network("dense", {"dim": 4})
    assert read("base: a.yaml\nnetwork: {name: dense, dim: 3}").network == Network("dense", {"dim": 3})
    assert read(text, "network.name=convnet").network == Network("convnet", {"width": 8, "stages": (3,)})
    assert read(text, "network.name=dense", "network.name=convnet").network == Network("convnet")
    (problem,) = problems(text, "network.width=4", "network.name=dense", "network.dim=1")
    assert problem.startswith("override network.width=4: network.width is not known")  # asked for, so not dropped


def test_another_name_than_the_key_drops_options_but_not_fields() -> None:
    text = "data: d\nterms: {crd: {temperature: 1, weight: 3, negatives: queue}}"
    assert read(text, "terms.crd.name=kd").terms == {"crd": Term("kd", 3.0)}
    assert read(text, "terms={crd: {name: kd, temperature: 2}}").terms == {"crd": Term("kd", 3.0, {"temperature": 2.0})}
    assert read(text, "terms.crd.name=crd").terms == read(text).terms
    Path("a.yaml").write_text("data: d\nnetwork: {width: 8}")
    assert read("base: a.yaml\nnetwork: {name: convnet}").network == Network("convnet", {"width": 8})  # no old name


def test_another_name_in_a_base_drops_the_options_of_its_own_base() -> None:
    Path("a.yaml").write_text("data: d\nterms: {crd: {temperature: 1, weight: 3, negatives: {count: 2}}}")
    Path("b.yaml").write_text("base: a.yaml\nterms: {crd: {name: kd}}")
    assert read("base: b.yaml\nseed: 1").terms == {"crd": Term("kd", 3.0)}


def test_an_override_with_an_empty_mapping_does_not_pass_for_one_that_empties() -> None:
    for override in ("terms={}", "terms.crd={}"):
        (problem,) = problems("data: d\nterms: {crd: {weight: 2}}", override)
        assert problem.startswith(f"override {override}: an empty mapping changes nothing (mappings merge); ")
    assert read("data: d", "terms={}").terms == {} and read("data: d", "terms.crd={}").terms == {"crd": Term("crd")}


def test_what_an_override_joined_is_named_beside_the_files_line() -> None:
    (problem,) = problems("data: d\nterms:\n  crd: {negatives: {source: queue}}", "terms.crd.negatives={count: 0}")
    assert problem.startswith("x.yaml:3 and override terms.crd.negatives={count: 0}: terms.crd.negatives: count must")
    (problem,) = problems("data: d\ntrain: {lr: 1}", "train.epochs=0", "seed=1")
    assert problem == "x.yaml:2 and override train.epochs=0: train: epochs must be above 0, got 0"


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_text_is_not_null_and_not_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got = "null" if value else "nothing"
    assert problems("data: d", f"output={value}") == [f"override output={value}: output must be text, got {got}"]
    monkeypatch.setenv("FOLDER", value)
    assert problems("data: d\noutput: ${oc.env:FOLDER}") == [f"x.yaml:2: output must be text, got {got}"]


def test_empty_text_in_quotes_is_taken_where_it_is_the_default() -> None:
    assert read("unit: ''", schema=Texts).unit == ""
    assert problems("path: ''", schema=Texts) == ["x.yaml:1: path must be text that is not empty"]


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = read("data: ~/d\nnames: [~/a]", "output=~/x")
    assert (config.data, config.names, config.output) == ("/home/me/d", ["/home/me/a"], "/home/me/x")
    assert read("data: ~d").data == "~d"


def test_a_plain_source_stands_for_negatives() -> None:
    for text in ("negatives: queue", "negatives: {source: queue}"):
        assert read(f"data: d\nterms: {{crd: {{{text}}}}}").terms["crd"].options == {"negatives": Negatives("queue")}
    changed = read("data: d\nterms: {crd: {negatives: queue}}", "terms.crd.negatives.count=9")
    assert changed.terms["crd"].options == {"negatives": Negatives("queue", count=9)}


def test_an_override_reaches_an_entry_without_content() -> None:
    assert read("data: d\nterms: {crd: }", "terms.crd.weight=0.5").terms["crd"].weight == 0.5


def test_a_tilde_removes() -> None:
    assert read("data: d\nterms: {crd: , kd: }", "~terms.crd").terms == {"kd": Term("kd")}


# bases and references


def test_a_file_stands_over_its_base_and_the_base_over_its_own() -> None:
    Path("parts").mkdir()
    Path("parts/first.yaml").write_text("data: first\nseed: 1\ntrain: {lr: 1, epochs: 1}")
    Path("parts/second.yaml").write_text("base: first.yaml\nseed: 2\ntrain: {lr: 2}")
    config = read("base: parts/second.yaml\ntrain: {shuffle: false}", "train.lr=3")
    assert config == Config("first", seed=2, train=Train(lr=3.0, epochs=1, shuffle=False))


def test_later_bases_stand_over_earlier_ones() -> None:
    Path("a.yaml").write_text("data: a\nseed: 1")
    Path("b.yaml").write_text("data: b")
    assert read("base: [a.yaml, b.yaml]") == Config("b", seed=1)


def test_a_file_may_remove_what_its_base_gave() -> None:
    Path("a.yaml").write_text("data: a\nterms: {crd: , kd: }")
    assert read("base: a.yaml\nterms: {~crd: }").terms == {"kd": Term("kd")}


def test_a_mapping_may_be_based_on_a_file_too() -> None:
    Path("parts").mkdir()
    Path("parts/fast.yaml").write_text("lr: 1\nepochs: 9")
    Path("parts/train.yaml").write_text("base: fast.yaml\nepochs: 2")
    config = read("data: d\ntrain: {base: parts/train.yaml, shuffle: false}", "train.lr=3")
    assert config.train == Train(lr=3.0, epochs=2, shuffle=False)
    Path("terms.yaml").write_text("{crd: , kd: }")
    assert read("data: d\nterms: {base: terms.yaml, ~crd: }").terms == {"kd": Term("kd")}
    Path("whole.yaml").write_text("data: d\nterms: {base: terms.yaml}")
    assert read("base: whole.yaml\nterms: {~kd: }").terms == {"crd": Term("crd")}


def test_options_of_a_shorthand_pass_through_every_base() -> None:
    Path("a.yaml").write_text("data: d\nnetwork: convnet")
    Path("b.yaml").write_text("base: a.yaml\nnetwork: {width: 8}")
    assert read("base: b.yaml").network == read("data: d\nnetwork: {name: convnet, width: 8}").network
    assert read("base: b.yaml\nnetwork: {name: dense, dim: 3, ~width: }").network.name == "dense"


def test_a_mistake_in_a_mappings_base_is_said_with_its_line() -> None:
    Path("part.yaml").write_text("lr: 1\nepoch: 2\nbase: part.yaml")
    assert problems("data: d\ntrain: {base: part.yaml}") == ["part.yaml:3: the base part.yaml is based on itself"]
    Path("part.yaml").write_text("lr: 1\nepoch: 2")
    (problem,) = problems("data: d\ntrain:\n  base: part.yaml")
    assert problem.startswith("part.yaml:2: train.epoch is not known; did you mean 'epochs'?")


def test_a_reference_is_the_other_value() -> None:
    config = read("data: d\nseed: 3\noutput: out/${data}/${seed}\ntrain: {lr: '${seed}'}")
    assert (config.output, config.train.lr) == ("out/d/3", 3.0)


def test_a_reference_inside_a_list_is_the_other_value() -> None:
    assert read("data: d\nseed: 3\nsizes: ['${seed}', 4]").sizes == (3, 4)


def test_a_reference_to_quoted_text_stays_text() -> None:
    assert read("data: '12'\nlimit: ${data}").limit == "12"


def test_a_reference_to_nothing_but_the_environment_has_no_hint_about_files() -> None:
    assert problems("data: ${oc.env:ABSENT_VARIABLE}")[0].endswith('not found"')


def test_a_mapping_with_a_value_that_cannot_be_resolved_is_not_made() -> None:
    (problem,) = problems("{}", "part.scale=${nope}", schema=Outer)  # Ranged would unpack it
    assert problem.startswith("override part.scale=${nope}: ${nope} cannot be resolved: ")


def test_a_reference_sees_overrides() -> None:
    assert read("data: d\noutput: out/${data}", "data=e").output == "out/e"


def test_a_reference_may_be_a_whole_mapping() -> None:
    assert read("data: d\nterms: {crd: {weight: 2}, kd: '${terms.crd}'}").terms["kd"] == Term("kd", 2.0)


def test_the_environment_gives_values_of_the_fields_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "7")
    monkeypatch.setenv("NAME", "12")
    config = read("data: ${oc.env:NAME}\ntrain: {workers: '${oc.env:WORKERS}', lr: '${oc.env:ABSENT,1e-3}'}")
    assert (config.data, config.train.workers, config.train.lr) == ("12", 7, 1e-3)


# what is refused


def test_all_problems_are_said_at_once_each_at_its_line() -> None:
    found = problems(
        """data: 5
sed: 1
terms:
  crd: {temprature: 1}
  kdd:
network: convnett
train:
  lr: fast

  epochs: 1.5
""",
        "train.clip=1",
        "train.shuffle=yes",
    )
    assert found == [
        "x.yaml:1: data must be text, got 5; put it in quotes",
        "x.yaml:4: terms.crd.temprature is not known; did you mean 'temperature'? (known: name, weight, temperature, "
        "negatives)",
        "x.yaml:5: terms.kdd.name: objective 'kdd' is not known; did you mean 'kd'? (known: crd, kd)",
        "x.yaml:6: network.name: encoder 'convnett' is not known; did you mean 'convnet'? (known: convnet, dense)",
        "x.yaml:8: train.lr must be a number, got 'fast'",
        "x.yaml:10: train.epochs must be a whole number, got 1.5",
        "override train.shuffle=yes: train.shuffle must be true or false, got 'yes'",
        "override train.clip=1: train.clip is not known; did you mean 'clip_norm'? "
        "(known: epochs, lr, schedule, scale, shuffle, clip_norm, workers)",
        "x.yaml:2: sed is not known; did you mean 'seed'? "
        "(known: data, seed, limit, sizes, names, network, terms, train, output, tags)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "x.yaml: data must be given: folder of shards (text)"),
        ("data: null", "x.yaml:1: data must be text, got null"),
        ("data: [a]", "x.yaml:1: data must be text, got ['a']"),
        ("data: d\nseed: true", "x.yaml:2: seed must be a whole number, got true"),
        ("data: d\nseed: 1.0", "x.yaml:2: seed must be a whole number, got 1.0"),
        ("data: d\nseed: '1'", "x.yaml:2: seed must be a whole number, got '1'"),
        ("data: d\nlimit: [1]", "x.yaml:2: limit must be a whole number or text, got [1]"),
        ("data: d\nsizes: 3", "x.yaml:2: sizes must be a list, each a whole number, got 3"),
        ("data: d\nsizes:\n- 1\n- a", "x.yaml:4: sizes.1 must be a whole number, got 'a'"),
        ("data: d\ntrain: 3", "x.yaml:2: train must be a mapping, got 3"),
        ("data: d\ntrain:", "x.yaml:2: train must be a mapping, got null; leave it out to use its defaults"),
        ("data: d\nterms: {crd: {negatives: null}}", "x.yaml:2: terms.crd.negatives must be a mapping, got null; "),
        ("data: d\nterms: [crd]", "x.yaml:2: terms must be a mapping, got ['crd']"),
        ("data: d\nterms: {crd: 3}", "x.yaml:2: terms.crd must be a mapping, got 3"),
        ("data: d\ntrain: {shuffle: 1}", "x.yaml:2: train.shuffle must be true or false, got 1"),
        ("data: d\ntrain: {lr: true}", "x.yaml:2: train.lr must be a number, got true"),
        ("data: d\ntrain: {clip_norm: x}", "x.yaml:2: train.clip_norm must be a number or null, got 'x'"),
        ("data: d\ntrain: {scale: [1]}", "x.yaml:2: train.scale must be a list of 2 (a number, a number), got 1"),
        ("data: d\ntrain:\n  schedule: x", "x.yaml:3: train.schedule must be one of 'cosine', 'step', got 'x'"),
        ("data: d\ntrain:\n  epochs: 0", "x.yaml:2: train: epochs must be above 0, got 0"),
        ("data: d\nnetwork: {width: 1}", "x.yaml:2: network.name must be given: which one (one of convnet, dense)"),
        (
            "data: d\nnetwork: dense",
            "x.yaml:2: network.dim must be given for encoder 'dense': length of the embedding (a whole number)",
        ),
        ("data: d\nterms: {crd: {temperature: .nan}}", "x.yaml:2: terms.crd.temperature must be finite, got nan"),
        ("data: d\nterms:\n  kd:\n    temperature: -.inf", "x.yaml:4: terms.kd.temperature must be finite, got -inf"),
        (
            "data: d\nterms: {crd: {negatives: {momentum: .nan}}}",
            "terms.crd.negatives.momentum must be finite, got nan",
        ),
        ("data: d\nnetwork: {name: convnet, stages: [1, .inf]}", "x.yaml:2: network.stages.1 must be finite, got inf"),
        ("data: d\nnetwork: {name: convnet, width: a}", "x.yaml:2: network.width must be a whole number, got 'a'"),
        (
            "data: d\nnetwork:\n  name: convnet\n  classes: 2",
            "x.yaml:4: network.classes is not known (known: name, width, depth, norm, stages)",
        ),
        (
            "data: d\noutput: ${dat}",
            "x.yaml:2: ${dat} cannot be resolved: Interpolation key 'dat' not found; it must be set in a file",
        ),
        ("data: 1\nterms: ${terms}", "x.yaml:2: ${terms} cannot be resolved: "),
        ("data: d\nterms: {crd: '${terms}'}", "x.yaml:2: ${terms} cannot be resolved: "),
        (
            "data: ${output}\noutput: ${data}",
            "x.yaml:1: ${output} cannot be resolved: Recursive interpolation detected",
        ),
        ("data: ${oc.env:ABSENT_VARIABLE}", "\"Environment variable 'ABSENT_VARIABLE' not found\""),
        ("seed: 1\ndata: ${a", "x.yaml:2: '${a' must contain complete references: ${key} or ${oc.env:NAME,default}"),
        ("data: d\nseed: 1\ndata: e", "x.yaml:3: data is given twice, first at x.yaml:1"),
        ("data: d\ntrain: {lr: 1, lr: 2}", "x.yaml:2: train.lr is given twice, first at x.yaml:2"),
        ("data: d\n? [1]\n: 2", "x.yaml:2: the config has a list or mapping as a key; keys are names"),
        ("data: d\ntrain:\n\tlr: 1", "x.yaml:3: this is not YAML: found character"),
        ("data: d\ntrain: {lr: 1", "x.yaml:2: this is not YAML: expected ',' or '}'"),
        ("data: d\ntrain: {lr: ${seed}}", "; inside [ ] and { }, ${...} needs quotes"),
        ("data: d\n---\ndata: e", "x.yaml:2: this is not YAML: but found another document"),
        ("data: &d d\noutput: *d", "x.yaml:2: this is not YAML: aliases (*name) are not supported; write ${key}"),
        ("- data", "x.yaml: must be a mapping of settings, got ['data']"),
        ("base: none.yaml\ndata: d", "x.yaml:1: the base none.yaml cannot be read: No such file or directory"),
        ("data: d\nbase: x.yaml", "x.yaml:2: the base x.yaml is based on itself"),
        ("base: 3\ndata: d", "x.yaml:1: base must be the path of a config or a list of them, got 3"),
        ("data: d\nterms: {~crd: }", "x.yaml:2: there is no 'crd' to remove (known: )"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.lr=abc", "override train.lr=abc: train.lr must be a number, got 'abc'"),
        ("seed=null", "override seed=null: seed must be a whole number, got null"),
        ("seed=", "override seed=: seed must be a whole number, got null"),
        ("tarin.lr=1", "override tarin.lr=1: tarin is not known; did you mean 'train'?"),
        ("seed", "override seed: must be key=value to set or ~key to remove, as in train.lr=0.1 or ~train.lr"),
        ("~seed=1", "override ~seed=1: must be key=value to set"),
        ("train..lr=1", "override train..lr=1: must be key=value to set"),
        ("sizes=[1", "override sizes=[1: this is not YAML"),
        ("~train.lr", "override ~train.lr: there is no 'lr' to remove"),
        ("data.x=1", "override data.x=1: data must be text, got a mapping"),
    ],
)
def test_what_is_wrong_with_an_override_is_said_with_its_text(override: str, problem: str) -> None:
    found = problems("data: d", override)
    assert len(found) == 1
    assert problem in found[0]


@dataclass(frozen=True)
class Ranged:
    """Numbers with a range, and one that depends on another."""

    share: float = number(0.5, least=0, below=1)  # of the data
    rate: float | None = number(None, above=0)  # null: none
    scale: tuple[float, float] = number((0.5, 1.0), most=1)  # from and to
    counts: list[int | None] = number([1, None], least=1)  # null: all
    workers: int = number(2, least=0, runtime_only=True)  # processes

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise FieldError("scale", f"must rise, got {list(self.scale)}")


@dataclass(frozen=True)
class Outer:
    """A part of which is ranged."""

    part: Ranged = field(default_factory=Ranged)  # numbers


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("share: -0.1", "x.yaml:1: share must be at least 0 and below 1, got -0.1"),
        ("share: 1", "x.yaml:1: share must be at least 0 and below 1, got 1.0"),
        ("share: .nan", "x.yaml:1: share must be finite, got nan"),
        ("rate: .inf", "x.yaml:1: rate must be finite, got inf"),
        ("scale: [-.inf, 1]", "x.yaml:1: scale.0 must be finite, got -inf"),
        ("workers: .inf", "x.yaml:1: workers must be a whole number, got inf"),
        ("rate: 0", "x.yaml:1: rate must be above 0, got 0.0"),
        ("scale: [0.5, 1.5]", "x.yaml:1: scale must each be at most 1, got [0.5, 1.5]"),
        ("counts: [5, 0, null]", "x.yaml:1: counts must each be at least 1, got [5, 0, null]"),
        ("share: 0\nscale: [1, 0.5]", "x.yaml:2: scale must rise, got [1.0, 0.5]"),
    ],
)
def test_a_number_outside_its_range_is_refused(text: str, problem: str) -> None:
    assert problems(text, schema=Ranged) == [problem]


def test_numbers_at_the_ends_of_their_ranges_are_taken() -> None:
    config = read("{share: 0, rate: 1e-9, scale: [-5, 1], counts: [1], workers: 0}", schema=Ranged)
    assert config == Ranged(0.0, 1e-9, (-5.0, 1.0), [1], 0)
    assert read("rate: null", schema=Ranged) == Ranged() and Ranged().counts is not Ranged().counts
    assert "workers" not in to_dict(Ranged(workers=5), runtime_only=False)


def test_what_does_not_fit_together_is_said_where_the_field_was_set() -> None:
    assert problems("", "part.scale=[1,0]", schema=Outer) == [
        "override part.scale=[1,0]: part.scale must rise, got [1.0, 0.0]"
    ]


def test_what_a_user_names_is_not_called_base() -> None:
    for override in ("names.base=x", "names={base: x}"):
        assert problems("share: 1\nsizes: []\nnames: {}\nrest: 1", override, schema=Required) == [
            f"override {override}: names.base needs another name: base is reserved for base files"
        ]


def test_a_key_is_no_name_unless_the_schema_says_so() -> None:
    found = problems("networks: {convnet: {}}", schema=Unusual)
    assert found == ["x.yaml:1: networks.convnet.name must be given: which one (one of convnet, dense)"]


def test_a_union_of_a_dataclass_and_a_number_takes_either() -> None:
    assert read("train: 3", schema=Unusual).train == 3
    assert read("train: {epochs: 3}", schema=Unusual).train == Train(epochs=3)
    assert problems("train: x", schema=Unusual) == [
        "x.yaml:1: train must be a mapping or a whole number or null, got 'x'"
    ]


def test_what_a_required_field_expects_is_said_in_words() -> None:
    assert problems("", schema=Required) == [
        "x.yaml: share must be given: of the data (a number or null)",
        "x.yaml: sizes must be given: pixels (a list, each a whole number)",
        "x.yaml: names must be given: by name (a mapping of names, each to text)",
        "x.yaml: rest must be given: whatever (anything)",
    ]


def test_a_mapping_counts_as_written_where_it_was_last_written() -> None:
    Path("a.yaml").write_text("data: d\nnetwork: {width: 1}")
    found = problems("base: a.yaml\nseed: 1\nnetwork: {width: 2}")
    assert found == ["x.yaml:3: network.name must be given: which one (one of convnet, dense)"]


def test_a_problem_in_a_base_names_the_base_and_its_line() -> None:
    Path("a.yaml").write_text("data: d\ntrain:\n  lr: x")
    assert problems("base: a.yaml\nseed: 1") == ["a.yaml:3: train.lr must be a number, got 'x'"]


def test_a_missing_field_is_placed_where_its_mapping_was_written() -> None:
    found = problems("seed: 1\nnetwork:\n  width: 3\ndata: d", "network.width=4")
    assert found == ["x.yaml:2: network.name must be given: which one (one of convnet, dense)"]


def test_required_fields_of_an_absent_part_are_named_whole() -> None:
    assert problems("", schema=Nested) == ["x.yaml: network.name must be given: which one (one of convnet, dense)"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!x", "!!set"])
@pytest.mark.parametrize("content", ["[touch executed]", "touch executed", "{touch: executed}"])
def test_tags_are_refused_and_never_executed(tag: str, content: str) -> None:
    assert problems(f"data: {tag} {content}") == [
        f"x.yaml:1: data has the tag {tag}, which cannot be read; configs hold plain values"
    ]
    assert not Path("executed").exists()


def test_a_config_that_is_absent_or_unreadable_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^nope\.yaml: cannot be read: No such file or directory$"):
        load(Config, Path("nope.yaml"))
    with pytest.raises(ConfigError, match=r"^\.: cannot be read: Is a directory$"):
        load(Config, Path())
    Path("latin.yaml").write_bytes(b"data: \xe9")
    with pytest.raises(ConfigError, match=r"^latin\.yaml: cannot be read: it is not UTF-8 text$"):
        load(Config, Path("latin.yaml"))


@pytest.mark.parametrize(
    ("text", "overrides"),
    [("data: " + "[" * 2000, []), ("data: d", ["data=" + "[" * 2000]), ("data: d", ["data=" + "[" * 600 + "]" * 600]),
     ("data: d", [".".join("a" * 2000) + "=1"]), ("data: ${b}\nb: " + "[" * 150 + "]" * 150, [])],
)  # fmt: skip
def test_what_is_too_deep_is_said_in_a_line(text: str, overrides: list[str]) -> None:
    assert problems(text, *overrides) == ["x.yaml: it or an override has lists or mappings nested too deep"]


def test_bases_in_a_circle_are_refused() -> None:
    Path("a.yaml").write_text("base: x.yaml")
    assert problems("base: a.yaml\ndata: d") == ["a.yaml:1: the base x.yaml is based on itself"]


# what is written


FULL = """
data: "yes"
seed: 3
sizes: [64, 32]
names: ["1e-3", "010", "null", "", "a: b", "2024-01-01", "\\\\${x}", "äß"]
network: {name: convnet, width: 8, stages: [3]}
terms: {soft: {name: kd, temperature: 2}, crd: }
train: {lr: 1e-7, clip_norm: .inf}
"""


def test_a_written_config_reads_back_equal() -> None:
    config = read(FULL)
    assert "${x}" in config.names
    assert read(to_yaml(config)) == config


def test_a_plain_config_has_every_default_and_only_plain_values() -> None:
    plain = to_dict(read(FULL))
    assert plain["train"]["schedule"] == "cosine"
    assert plain["network"] == {"name": "convnet", "width": 8, "stages": [3]}
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("text", [r"${a}", r"\${a}", r"\\${a}", r"a\b", r"x\\\${y}${z}", "a\nb"])
def test_text_that_looks_like_a_reference_survives(text: str) -> None:
    assert read(dump({"data": text})).data == text


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("~", None), ("TRUE", True), ("-1", -1), ("1.", 1.0), ("a", "a")]
)
def test_a_scalar_is_what_yaml_makes_of_it(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_results_only_leaves_out_the_free_fields() -> None:
    plain = to_dict(read("data: d"), runtime_only=False)
    assert "output" not in plain
    assert "workers" not in plain["train"]
    assert plain["train"]["lr"] == 0.1


def test_differences_name_key_before_and_now() -> None:
    before = to_dict(read("data: d\nterms: {crd: }"))
    now = to_dict(read("data: e\nterms: {kd: }\ntrain: {lr: 0.2}"))
    assert differences(before, now) == [
        'data: "d" before, "e" now',
        'terms.crd.name: "crd" before, absent now',
        "terms.crd.weight: 1.0 before, absent now",
        "train.lr: 0.1 before, 0.2 now",
        'terms.kd.name: absent before, "kd" now',
        "terms.kd.weight: absent before, 1.0 now",
    ]
    assert differences(now, now) == []


# the rest


def test_at_names_the_key_behind_a_constructors_error() -> None:
    with pytest.raises(ConfigError, match=r"^views\.depth: max_m must be above 0, got -1$"), at("views.depth"):
        raise ValueError("max_m must be above 0, got -1")


def test_at_leaves_other_errors_and_named_ones_alone() -> None:
    with pytest.raises(ConfigError, match=r"^inner: bad$"), at("outer"), at("inner"):
        raise ValueError("bad")
    with pytest.raises(KeyError), at("outer"):
        raise KeyError("a defect")


@pytest.mark.parametrize("annotation", ["Tensor", "list[Path]", "__import__('os')", "(", "().__class__"])
def test_an_option_that_no_config_can_give_is_a_defect_of_the_entry(annotation: str) -> None:
    with pytest.raises(TypeError, match=r"option size has the type .*, which a config cannot give; use int"):
        evaluate(Option("size", annotation, None, ""))


def test_every_option_of_every_entry_can_be_given_by_a_config() -> None:
    checked = [
        evaluate(option)
        for catalogue in (MODALITIES, ENCODERS, OBJECTIVES, SOURCES, EVALUATIONS)
        for name in catalogue.names()
        for option in catalogue.options(name).values()
    ]
    assert checked


def test_reading_a_config_imports_nothing_heavy() -> None:
    Path("x.yaml").write_text("seed: ${sed}\nlr: 1")
    code = (
        "import sys; from dataclasses import dataclass; from pathlib import Path\n"
        "from pipelines.config import ConfigError, load\n"
        "@dataclass(frozen=True)\nclass Config:\n    seed: int = 0\n"
        "try:\n    load(Config, Path('x.yaml'))\n"
        "except ConfigError as error:\n    "
        "print(len(error.problems), {'torch', 'numpy', 'accelerate'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 set()\n"


def test_a_stage_is_not_named_by_another_folder(tmp_path: Path) -> None:
    from pipelines import run

    (tmp_path / "c.yaml").write_text('stages: {"../../x": {pipeline: shards, config: a.yaml}}')
    with pytest.raises(ConfigError, match=r"stages must be named by letters.*got '../../x'"):
        load(run.Config, tmp_path / "c.yaml")


def test_a_base_that_is_a_device_is_refused(tmp_path: Path) -> None:
    from pipelines import run

    (tmp_path / "c.yaml").write_text("base: /dev/zero")
    with pytest.raises(ConfigError, match="the base /dev/zero cannot be read: it is a device"):
        load(run.Config, tmp_path / "c.yaml")


@pytest.mark.parametrize("piece", ["${oc.env:", "${oc.env:A,", "${oc.decode:[", "${a:${b,"])
@pytest.mark.parametrize("ends", ["", "}"])
def test_references_nested_too_deep_or_without_an_end_are_named_with_their_line(piece: str, ends: str) -> None:
    (problem,) = problems(f"seed: 1\ndata: '{piece * 300}{ends * 300}'")
    assert problem.startswith("x.yaml:2: '${") and len(problem) < 400
    assert problem.endswith(
        ("nests ${...} too deep", "must contain complete references: ${key} or ${oc.env:NAME,default}")
    )


@pytest.mark.parametrize("text", ["base: {0}\ndata: d", "data: d\ntrain: {{base: {0}}}"])
def test_a_base_that_is_a_pipe_is_refused(text: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # which nobody writes, so that to read it would take for ever
    (problem,) = problems(text.format(tmp_path / "pipe"))
    assert f"the base {tmp_path}/pipe cannot be read: it is a device, a pipe or a socket" in problem


def test_a_config_is_read_from_a_pipe_of_the_shell_but_not_from_a_named_one(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"data: d")
    os.close(writer)
    assert load(Config, Path(f"/dev/fd/{reader}")).data == "d"
    os.close(reader)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: cannot be read: it is a device, a pipe or a socket, not a file"):
        load(Config, tmp_path / "pipe")


# keys that had another name


def test_an_old_key_is_refused_with_its_new_name_and_its_line() -> None:
    assert problems("folder: d\ntrain: {lr: 1}\nrate: 2", "kd.temperature=3", schema=Renamed) == [
        "x.yaml:1: folder is now data",
        "x.yaml:3: rate is now train.lr",
        "override kd.temperature=3: kd is now terms.kd",
    ]


def test_an_old_option_of_an_entry_is_refused_with_its_new_name() -> None:
    assert problems("data: d\nterms: {kd: {softness: 2}}") == [
        "x.yaml:2: terms.kd.softness is now terms.kd.temperature"
    ]


def stored(text: str) -> Renamed:
    Path("config.yaml").write_text(text)
    return load(Renamed, Path("config.yaml"), stored=True)


def test_old_keys_of_a_stored_config_are_read_as_their_new_ones() -> None:
    assert stored("folder: d\nrate: 2\nkd: {softness: 2}") == Renamed(
        "d", Train(lr=2.0), {"kd": Term("kd", options={"temperature": 2.0})}
    )
    assert stored("data: d\nhot: 3").terms == {"kd": Term("kd", options={"temperature": 3.0})}


def test_a_stored_null_does_not_become_an_entry_with_default_options() -> None:
    assert stored("data: d\nkd: null").terms == {}


def test_a_new_key_of_a_stored_config_counts_more_than_the_old_one() -> None:
    assert stored("data: d\nfolder: e\ntrain: {lr: 1}\nrate: 2") == Renamed("d", Train(lr=1.0))
