"""Files on disk as pairs: what is found, how it is divided, and every refusal."""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from real import extract

from crossmodal.sources import Pair, SourceError
from crossmodal.sources.common.patterns import Pattern, natural
from crossmodal.sources.folder import Folder
from modalities.common.random import generator
from modalities.depth import Depth
from modalities.labels import Labels

RGB = {"modality": "rgb", "files": "{key}.color.jpg"}
DEPTH = {"modality": "depth", "files": "{key}.depth.png", "scale_m": 0.001}
LABELS = {"modality": "labels", "files": "{key}.png"}
CONFIGS = Path(__file__).parents[3] / "configs"


def write(root: Path, *paths: str) -> None:
    """Files that hold their own path: sources pass bytes on unread."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def write_frames(root: Path, *keys: str) -> None:
    write(root, *(f"{key}.{ending}" for key in keys for ending in ("color.jpg", "depth.png")))


def frames(root: Path, **options: Any) -> Folder:
    return Folder(str(root), {"rgb": RGB, "depth": DEPTH}, **options)


def photographs(root: Path, pattern: str, **options: Any) -> Folder:
    return Folder(str(root), {"rgb": {"modality": "rgb", "files": pattern}}, **options)


def listed(root: Path, text: str, **options: Any) -> Folder:
    (root / "pairs.csv").write_text(text)
    return Folder(str(root), {"rgb": {"modality": "rgb"}, "depth": {"modality": "depth"}}, csv="pairs.csv", **options)


def example(folder: Path) -> Folder:
    """For the conformance tests of all sources, which decode."""
    source = frames(folder, test_share=0.5)
    for number, key in enumerate("abcd"):
        for name, modality in source.fields().items():
            signal = torch.rand(3 if name == "rgb" else 1, 8, 8, generator=generator(number, name))
            (folder / source.members[name]["files"].format(key=key)).write_bytes(modality.encode(signal))
    return source


def keys(source: Folder, split: str = "train") -> list[str]:
    return [pair.key for pair in source.pairs(split)]


def test_files_that_share_a_key_are_a_pair_byte_for_byte(tmp_path: Path) -> None:
    write_frames(tmp_path, "frame-1")
    assert list(frames(tmp_path).pairs("train")) == [
        Pair("frame-1", {"rgb.jpg": b"frame-1.color.jpg", "depth.png": b"frame-1.depth.png"})
    ]


def test_views_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "colour/x.jpg", "range/x.png", "colour/y.jpg", "range/y.png")
    source = Folder(
        str(tmp_path), {"rgb": RGB | {"files": "colour/{key}.jpg"}, "depth": DEPTH | {"files": "range/{key}.png"}}
    )
    assert [pair.members["depth.png"] for pair in source.pairs("train")] == [b"range/x.png", b"range/y.png"]


def test_stored_options_reach_the_modality(tmp_path: Path) -> None:
    source = Folder(str(tmp_path), {"depth": DEPTH | {"scale_m": 0.0002}})
    assert source.fields()["depth"].scale_m == 0.0002  # type: ignore[attr-defined]


def test_whole_distances_without_a_scale_are_refused_with_their_median(tmp_path: Path) -> None:
    no_reading = torch.zeros(1, 4, 4)
    (tmp_path / "a.png").write_bytes(Depth().encode(no_reading))
    (tmp_path / "b.png").write_bytes(Depth().encode(torch.tensor([0, 4.9, 5.0, 5.1, 65.535, 65.535]).view(1, 2, 3)))
    member = {"modality": "depth", "files": "{key}.png", "invalid": 65535}
    told = r"members.depth.scale_m must be given.*b.png \(key 'b'\) is 5000, which is 5 m with .* and 1 m with"
    with pytest.raises(SourceError, match=told):
        Folder(str(tmp_path), {"depth": member}).digest()
    assert keys(Folder(str(tmp_path), {"depth": member | {"scale_m": 0.001}})) == ["a", "b"]


def test_class_names_may_be_the_lines_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "classes.txt").write_text("wall\n night stand \nlamp\n\n")
    source = Folder(str(tmp_path), {"labels": LABELS | {"classes": "classes.txt"}})
    listed = Folder(str(tmp_path), {"labels": LABELS | {"classes": ["wall", "night stand", "lamp"]}})
    assert source.fields() == listed.fields() == {"labels": Labels(classes=("wall", "night stand", "lamp"))}
    assert source.digest() == listed.digest()
    assert source.unmatched() == {} and [*listed.unmatched()] == [tmp_path / "classes.txt"]


def test_class_names_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"members.labels.classes: .*none.txt cannot be read: No such file"):
        Folder(str(tmp_path), {"labels": LABELS | {"classes": "none.txt"}})
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"members.labels.classes: .*classes.txt cannot be read: it is not text in"):
        Folder(str(tmp_path), {"labels": LABELS | {"classes": "classes.txt"}})
    (tmp_path / "classes.txt").write_text("wall\n\nlamp")
    with pytest.raises(SourceError, match=r"members.labels: classes must have names that are not empty"):
        Folder(str(tmp_path), {"labels": LABELS | {"classes": "classes.txt"}})


def test_split_and_label_come_from_the_path(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/0.jpg", "train/ant/0.jpg", "test/cat/0.jpg")
    source = photographs(tmp_path, "{split}/{label}/{key}.jpg")
    assert source.splits() == ("train", "test")
    assert source.classes() == ("ant", "cat")
    assert [(pair.key, pair.label) for pair in source.pairs("train")] == [("ant_0", 0), ("cat_0", 1)]
    assert [(pair.key, pair.label) for pair in source.pairs("test")] == [("cat_0", 1)]


def test_pairs_come_in_natural_order(tmp_path: Path) -> None:
    write_frames(tmp_path, "f10", "f9", "f1")
    assert keys(frames(tmp_path)) == ["f1", "f9", "f10"]


@pytest.mark.parametrize(("less", "more"), [("f2", "f10"), ("a", "b"), ("1", "01a"), ("1", "a"), ("01", "1")])
def test_natural_order(less: str, more: str) -> None:
    assert natural(less) < natural(more)


def test_classes_take_turns_in_the_order(tmp_path: Path) -> None:
    write(tmp_path, "ant/1.jpg", "ant/2.jpg", "cat/1.jpg", "cat/2.jpg")
    assert keys(photographs(tmp_path, "{label}/{key}.jpg")) == ["ant_1", "cat_1", "ant_2", "cat_2"]


def test_the_last_share_is_for_testing(tmp_path: Path) -> None:
    write_frames(tmp_path, *(f"f{i}" for i in range(12)))
    source = frames(tmp_path, test_share=0.25)
    assert keys(source, "test") == ["f9", "f10", "f11"]
    assert keys(source, "train") == [f"f{i}" for i in range(9)]


def test_a_share_takes_whole_groups(tmp_path: Path) -> None:
    write(tmp_path, *(f"{room}/{i}.jpg" for room in ("bath", "hall", "loft") for i in range(4)))
    source = photographs(tmp_path, "{group}/{key}.jpg", test_share=0.4)
    (held,) = {pair.group for pair in source.pairs("test")}  # one group of three is nearest to the share
    assert {pair.group for pair in source.pairs("train")} == {"bath", "hall", "loft"} - {held}
    others = [photographs(tmp_path, "{group}/{key}.jpg", test_share=0.4, test_seed=seed) for seed in range(20)]
    assert {next(iter(other.pairs("test"))).group for other in others} == {"bath", "hall", "loft"}


def test_a_share_takes_the_last_pairs_of_every_class(tmp_path: Path) -> None:
    """Files that begin with their class come class after class; the last fifth of all would be owls only."""
    write(tmp_path, *(f"{name}/{name}_{i}.jpg" for name in ("cat", "dog", "owl") for i in range(10)))
    source = photographs(tmp_path, "{label}/{key}.jpg", test_share=0.2)
    assert keys(source, "test") == [f"{name}_{name}_{i}" for name in ("cat", "dog", "owl") for i in (8, 9)]


def test_a_seed_moves_the_run_that_a_share_takes_of_every_class(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{name}_{i}.jpg" for name in ("cat", "owl") for i in range(10)))
    held = []
    for seed in (0, 1, 2, 3, 1):
        source = photographs(tmp_path, "{label}/{key}.jpg", test_share=0.2, test_seed=seed)
        names = keys(source, "test")
        held.append(tuple(names))
        assert len(names) == 4 and len({*names, *keys(source, "train")}) == 20
        for one, other in (names[:2], names[2:]):  # neighbours, which may be near copies, stay together
            assert one[:-1] == other[:-1] and int(other[-1]) == int(one[-1]) + 1
    assert held[0] == ("cat_cat_8", "cat_cat_9", "owl_owl_8", "owl_owl_9")
    assert held[1] == held[4] and len({*held}) > 2


def test_a_share_takes_groups_of_every_class(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{name}{walk}/{i}.jpg" for name in ("cat", "owl") for walk in range(5) for i in range(4)))
    for seed in range(5):
        source = photographs(tmp_path, "{label}/{group}/{key}.jpg", test_share=0.2, test_seed=seed)
        held = {(pair.label, pair.group) for pair in source.pairs("test")}
        assert sorted(label for label, _ in held) == [0, 1]
        assert not {group for _, group in held} & {pair.group for pair in source.pairs("train")}


def test_named_groups_are_for_testing(tmp_path: Path) -> None:
    write(tmp_path, "bath/1.jpg", "hall/1.jpg", "loft/1.jpg")
    source = photographs(tmp_path, "{group}/{key}.jpg", test_groups=("bath",))
    assert (keys(source, "test"), keys(source, "train")) == (["bath_1"], ["hall_1", "loft_1"])


def test_facts_are_numbers_in_one_list(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    (tmp_path / "a.pose.txt").write_text("1 0\t-2.5e-1\n0, 1 3\n")
    (pair,) = frames(tmp_path, facts={"pose": "{key}.pose.txt"}).pairs("train")
    assert pair.facts == {"pose": [1.0, 0.0, -0.25, 0.0, 1.0, 3.0]}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0, 1 3", [0, 1, 3]), ("1;2.5; 3\n", [1, 2.5, 3]), ("1,2,3\n4,5,6\n", [1, 2, 3, 4, 5, 6]), ("0.5,1", [0.5, 1]),
     ("\ufeff1 2\r\n3", [1, 2, 3])],
)  # fmt: skip
def test_numbers_of_facts_are_separated_where_that_is_clear(tmp_path: Path, text: str, numbers: list[float]) -> None:
    write_frames(tmp_path, "a")
    (tmp_path / "a.txt").write_bytes(text.encode())
    (pair,) = frames(tmp_path, facts={"pose": "{key}.txt"}).pairs("train")
    assert pair.facts == {"pose": numbers}


def test_a_fact_in_utf_16_is_refused_in_one_sentence(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    (tmp_path / "a.txt").write_bytes("1 2".encode("utf-16"))
    with pytest.raises(SourceError, match=r"a.txt \(key 'a'\) must be a text file of numbers in UTF-8; save it"):
        list(frames(tmp_path, facts={"pose": "{key}.txt"}).pairs("train"))


def test_a_csv_file_lists_the_pairs(tmp_path: Path) -> None:
    write(tmp_path, "x/2.jpg", "x/1.jpg", "y/b.png", "y/a.png")
    text = "\ufeffdepth,rgb,label,split,group,key\ny/b.png,x/2.jpg,dog,test,g,two\n\ny/a.png,x/1.jpg,,train,h,1\n"
    source = listed(tmp_path, text)
    assert source.splits() == ("train", "test")
    assert list(source.pairs("test")) == [Pair("two", {"rgb.jpg": b"x/2.jpg", "depth.png": b"y/b.png"}, 0, "g")]
    assert list(source.pairs("train")) == [Pair("1", {"rgb.jpg": b"x/1.jpg", "depth.png": b"y/a.png"}, -1, "h")]


def test_without_a_column_key_the_first_file_names_the_pair_in_the_order_of_lines(tmp_path: Path) -> None:
    write(tmp_path, "x/2.jpg", "x/1.jpg", "a.png", "x/1.txt", "x/2.txt")
    source = listed(tmp_path, "rgb,depth\nx/2.jpg,a.png\nx/1.jpg,a.png\n")
    assert keys(source) == ["x_2", "x_1"]


def test_facts_of_a_csv_file_follow_its_key(tmp_path: Path) -> None:
    write(tmp_path, "x/1.jpg", "a.png")
    (tmp_path / "x" / "1.txt").write_text("7")
    (pair,) = listed(tmp_path, "rgb,depth\nx/1.jpg,a.png\n", facts={"time": "{key}.txt"}).pairs("train")
    assert pair.facts == {"time": [7.0]}


def test_pairs_that_lack_a_file_are_dropped_and_counted_where_asked(tmp_path: Path) -> None:
    write_frames(tmp_path, "a", "b")
    write(tmp_path, "c.color.jpg", "d.depth.png")
    source = frames(tmp_path, missing="drop")
    assert keys(source) == ["a", "b"]
    assert source.dropped() == ["key 'c' has no depth (c.depth.png)", "key 'd' has no rgb (d.color.jpg)"]


def test_a_file_whose_name_differs_in_case_is_told(tmp_path: Path) -> None:
    write_frames(tmp_path, "a", "b")
    (tmp_path / "a.color.jpg").rename(tmp_path / "a.color.JPG")
    told = "key 'a' has no rgb (a.color.jpg; a.color.JPG exists, which differs in case)"
    assert frames(tmp_path, missing="drop").dropped() == [told]
    with pytest.raises(SourceError, match=re.escape(f"1 of 2 pairs in {tmp_path} lack a file: {told}. Add the files")):
        frames(tmp_path).digest()


def test_a_missing_fact_is_a_missing_file(tmp_path: Path) -> None:
    write_frames(tmp_path, "a", "b")
    (tmp_path / "a.txt").write_text("1")
    source = frames(tmp_path, facts={"time": "{key}.txt"}, missing="drop")
    assert (keys(source), source.dropped()) == (["a"], ["key 'b' has no time (b.txt)"])


def test_keys_are_made_fit_for_shards(tmp_path: Path) -> None:
    write_frames(tmp_path, "a.b é")
    assert keys(frames(tmp_path)) == ["a_b_u00e9"]


def test_names_in_other_scripts_have_keys_of_their_own(tmp_path: Path) -> None:
    write_frames(tmp_path, "\u53a8\u623f", "\u5367\u5ba4")
    assert keys(frames(tmp_path)) == ["u5367u5ba4", "u53a8u623f"]


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_names_that_differ_only_in_unicode_normalisation_are_one(tmp_path: Path) -> None:
    write(tmp_path, f"{NFC}/1.jpg", f"{NFD}/2.jpg", f"{NFD}/2.txt", f"{NFC}/1.txt")
    for number in (1, 2):
        (tmp_path / (NFC, NFD)[number - 1] / f"{number}.txt").write_text(str(number))
    source = photographs(tmp_path, "{label}/{key}.jpg", facts={"time": "{label}/{key}.txt"})
    assert source.classes() == (NFC,)
    pairs = list(source.pairs("train"))
    assert [pair.members["rgb.jpg"].decode() for pair in pairs] == [f"{NFC}/1.jpg", f"{NFD}/2.jpg"]
    assert [pair.facts for pair in pairs] == [{"time": [1.0]}, {"time": [2.0]}]
    write(tmp_path, f"{NFD}/1.jpg")
    with pytest.raises(SourceError, match=r"cafe\\u0301/1.jpg' and 'caf\\xe9/1.jpg' in .* are one pair"):
        photographs(tmp_path, "{label}/{key}.jpg").digest()


def test_labels_of_a_csv_file_in_two_normalisations_are_one_class(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "a.png")
    source = listed(tmp_path, f"rgb,depth,label,key\na.jpg,a.png,{NFC},x\na.jpg,a.png,{NFD},y\n")
    assert source.classes() == (NFC,)


def test_backslashes_in_a_csv_file_separate_folders(tmp_path: Path) -> None:
    write(tmp_path, "x/1.jpg", "y/1.png")
    assert keys(listed(tmp_path, "rgb,depth\nx\\1.jpg,y\\1.png\n")) == ["x_1"]


def test_a_broken_link_is_told_with_its_target(tmp_path: Path) -> None:
    write_frames(tmp_path, "a", "b")
    (tmp_path / "a.color.jpg").unlink()
    (tmp_path / "a.color.jpg").symlink_to("gone.jpg")
    with pytest.raises(SourceError, match=r"rgb \(a.color.jpg is a link to gone.jpg, which does not exist\)"):
        frames(tmp_path).digest()


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path, "a", "b")
    (tmp_path / "a.color.jpg").unlink()
    (tmp_path / "a.color.jpg").symlink_to("a.color.jpg")
    with pytest.raises(SourceError, match=r"a.color.jpg \(key 'a'\) cannot be read: Too many levels"):
        frames(tmp_path).digest()


def test_files_that_no_pattern_matches_are_told(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "cat/1.txt", "cat/2.JPG", "cat/deep/3.jpg", "Thumbs.db", ".DS_Store", ".git/x.jpg")
    source = photographs(tmp_path, "{label}/{key}.jpg", facts={"time": "{label}/{key}.txt"})
    case = "its extension differs from members.rgb.files only in case"
    assert source.unmatched() == {tmp_path / "cat/2.JPG": case, tmp_path / "cat/deep/3.jpg": ""}


def test_files_that_no_line_lists_are_told(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "a.png", "b.jpg")
    assert listed(tmp_path, "rgb,depth\n./a.jpg,a.png\n").unmatched() == {tmp_path / "b.jpg": ""}


def test_what_begins_with_a_dot_is_not_found(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    write(tmp_path, "._a.color.jpg", "._a.depth.png")
    assert keys(frames(tmp_path)) == ["a"]


def test_special_characters_of_a_pattern_are_themselves(tmp_path: Path) -> None:
    write(tmp_path, "[a]+/x.jpg", "a/y.jpg")
    assert Pattern("[a]+/{key}.jpg", "files").find(tmp_path) == {("x",): "[a]+/x.jpg"}


def test_a_placeholder_that_comes_twice_stands_for_the_same_text(tmp_path: Path) -> None:
    write(tmp_path, "x/x.jpg", "x/y.jpg")
    assert Pattern("{key}/{key}.jpg", "files").find(tmp_path) == {("x",): "x/x.jpg"}


def test_filling_a_pattern_is_the_inverse_of_finding(tmp_path: Path) -> None:
    write(tmp_path, "train/a_b_1.jpg")
    pattern = Pattern("{split}/{label}_{key}.jpg", "files")
    ((values, path),) = pattern.find(tmp_path).items()
    assert values == ("train", "b_1", "a")
    assert pattern.fill(dict(zip(pattern.names, values, strict=True))) == path


def test_the_digest_follows_files_and_options_but_not_the_root(tmp_path: Path) -> None:
    for name in ("here", "there"):
        write_frames(tmp_path / name, "a", "b")
        for path in (tmp_path / name).iterdir():
            os.utime(path, (1, 1))
    before = frames(tmp_path / "here").digest()
    assert frames(tmp_path / "there").digest() == before
    assert frames(tmp_path / "here", test_share=0.5).digest() != before
    os.utime(tmp_path / "here" / "a.color.jpg", (2, 2))
    assert frames(tmp_path / "here").digest() != before


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({}, {}, "members must name at least one field"),
        ({"rgb": {"files": "{key}.jpg"}}, {}, "members.rgb.modality: None is not known .*known: .*rgb"),
        ({"rgb": RGB | {"modality": "rbg"}}, {}, "'rbg' is not known; did you mean 'rgb'?"),
        ({"colour": RGB}, {}, "members.colour: modality rgb is stored as 'rgb'; rename this member to rgb"),
        ({"depth": DEPTH | {"scale": 1}}, {}, "members.depth.scale is not known; did you mean 'scale_m'?"),
        ({"depth": DEPTH | {"invalid": "65535"}}, {}, "members.depth.invalid must be a finite number, got '65535'"),
        ({"depth": DEPTH | {"invalid": None}}, {}, "members.depth.invalid must be a finite number, got None"),
        ({"depth": DEPTH | {"scale_m": "mm"}}, {}, "members.depth.scale_m must be a finite number, got 'mm'"),
        ({"depth": DEPTH | {"scale_m": True}}, {}, "members.depth.scale_m must be a finite number, got True"),
        ({"depth": DEPTH | {"scale_m": float("inf")}}, {}, "members.depth.scale_m must be a finite number, got inf"),
        ({"labels": LABELS}, {}, "members.labels.classes must be given: the names of the stored values, ascending"),
        ({"labels": LABELS | {"classes": [1, 2]}}, {}, "members.labels.classes.0 must be text in Unicode, got 1"),
        ({"labels": LABELS | {"classes": ["a", "a"]}}, {}, "members.labels: classes must be different, got 'a' twice"),
        (
            {"labels": LABELS | {"classes": ["a", "b"], "ignore": "b"}},
            {},
            "members.labels.ignore must be a whole number from 0 to .*, got 'b'",
        ),
        (
            {"rgb": {"modality": "rgb"}},
            {},
            "members.rgb.files must be a pattern like '{key}.rgb.png'; or set csv",
        ),
        ({"rgb": RGB}, {"csv": "pairs.csv"}, "members.rgb.files: pairs.csv lists the files already; remove either"),
        ({"rgb": RGB | {"files": "{ky}.jpg"}}, {}, "placeholder {ky} of '{ky}.jpg' is not known; did you mean 'key'?"),
        ({"rgb": RGB | {"files": "{key.jpg"}}, {}, "members.rgb.files: '{key.jpg' has an unmatched brace"),
        ({"rgb": RGB | {"files": "{label}.jpg"}}, {}, "members.rgb.files: '{label}.jpg' must contain {key}"),
        ({"depth": DEPTH | {"files": "{key}.jpg"}}, {}, "members.depth.files: depth must be one of .*got '{key}.jpg'"),
        (
            {"rgb": RGB, "depth": DEPTH | {"files": "{label}/{key}.png"}},
            {},
            r"'{label}/{key}.png' must have the same placeholders as members.rgb.files \(key\), got key, label",
        ),
        ({"rgb": RGB}, {"facts": {"label": "{key}.txt"}}, "facts.label: 'label' is already in use"),
        (
            {"rgb": RGB},
            {"facts": {"pose": "{group}.txt"}},
            "facts.pose: '{group}.txt' needs {group}, which is not in members.rgb.files",
        ),
        ({"rgb": RGB}, {"test_share": 1.0}, "test_share must be at least 0 and below 1, got 1.0"),
        ({"rgb": RGB}, {"test_share": 0.5, "test_groups": ("a",)}, "test_share and test_groups exclude each other"),
    ],
)
def test_wrong_options_are_refused_before_any_file_is_looked_for(
    members: dict[str, dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        Folder("nowhere", members, **options)


def test_an_absent_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"root: there is no folder /.*/absent"):
        frames(tmp_path / "absent").splits()


def test_a_pattern_that_matches_nothing_shows_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "a.color.jpg", "deep/a.png")
    with pytest.raises(SourceError, match=r"'{key}.depth.png' matches no file in .*; it holds a.color.jpg, deep/a.png"):
        frames(tmp_path).digest()


def test_missing_files_are_counted_named_and_advised_on(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    write(tmp_path, *(f"b{i}.color.jpg" for i in range(5)))
    with pytest.raises(SourceError, match=r"5 of 6 pairs .*key 'b0' has no depth .*; and 2 more\. .*missing: drop"):
        frames(tmp_path).digest()


def test_pairs_that_lack_a_file_are_kept_without_it_where_asked(tmp_path: Path) -> None:
    write_frames(tmp_path, "a", "b", "c")
    (tmp_path / "b.depth.png").unlink()
    for path in tmp_path.glob("c.*"):
        path.unlink()
    write(tmp_path, "d.depth.png")
    source = frames(tmp_path, missing="keep")
    assert {pair.key: sorted(pair.members) for pair in source.pairs("train")} == {
        "a": ["depth.png", "rgb.jpg"], "b": ["rgb.jpg"], "d": ["depth.png"]
    }  # fmt: skip
    assert source.partial and not source.dropped() and not frames(tmp_path, missing="drop").partial


def test_no_whole_pair_is_an_error_even_where_pairs_may_be_dropped(tmp_path: Path) -> None:
    write(tmp_path, "a.color.jpg", "b.depth.png")
    with pytest.raises(SourceError, match=r"key 'a' has no depth .*; key 'b' has no rgb .*\. No pair is complete"):
        frames(tmp_path, missing="drop").digest()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    (tmp_path / "a.depth.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a.depth.png \(key 'a'\) is empty \(0 bytes\)"):
        frames(tmp_path).digest()


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    (tmp_path / "b.color.jpg").mkdir()
    with pytest.raises(SourceError, match=r"b.color.jpg \(key 'b'\) must be a file"):
        frames(tmp_path).digest()


def test_keys_that_collide_are_refused_by_name(tmp_path: Path) -> None:
    write_frames(tmp_path, "a.b", "a b")
    with pytest.raises(SourceError, match=r"key 'a b' .*and key 'a.b' .*both get the key 'a_b'"):
        frames(tmp_path).digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 two", "be a text file of numbers: .*'two'"),
        ("1 nan", "hold finite numbers, got nan"),
        ("-inf", "got -inf"),
        ("1,25 0,5 3,75", "comma in '1,25' may be a decimal comma; write 1.25"),
        ("1,5 2 0,25", "comma in '1,5'"),
        ("1,25\t0,5", "comma in '1,25'"),
        ("1,25;0,5", "comma in '1,25'"),
        ("1,25\n", "comma in '1,25'"),
        (" \n", "but it holds none"),
        ("1\0 \0", "save it as UTF-8"),
    ],
)
def test_facts_that_are_not_finite_numbers_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_frames(tmp_path, "a")
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(SourceError, match=rf"a.txt \(key 'a'\) must .*{message}"):
        list(frames(tmp_path, facts={"time": "{key}.txt"}).pairs("train"))


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    with pytest.raises(SourceError, match=r"split 'test' is not known \(known: train\)"):
        next(frames(tmp_path).pairs("test"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path, "a")
    source = frames(tmp_path)
    source.splits()
    (tmp_path / "a.depth.png").unlink()
    with pytest.raises(SourceError, match=r"a.depth.png \(key 'a'\) cannot be read: No such file"):
        next(source.pairs("train"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rgb,dpeth\n",
            r"line 1 of pairs.csv: there is no column 'depth'; did you mean 'dpeth'\? \(known: rgb, dpeth\)",
        ),
        ("rgb,depth,class\na.jpg,a.png,ant\n", "line 1 of pairs.csv: column 'class' is not known.*; add it to members"),
        ("rgb,depth,rgb\n", "line 1 of pairs.csv: column 'rgb' appears twice"),
        ("", "line 1 of pairs.csv: there is no column 'rgb'"),
        ("rgb,depth\n", "pairs.csv has no pairs"),
        ("rgb,depth\na.jpg,a.png\na.jpg\n", r"line 3 of pairs.csv: expected 2 cells \(rgb, depth\), got 1"),
        ("rgb,depth\n,\n", "line 2 of pairs.csv: expected a file under rgb, depth, got none"),
        ("rgb,depth,split\na.jpg,a.png,\n", "line 2 of pairs.csv: split is empty"),
        ("rgb,depth\na.jpg,a.png\nb.jpg,c.png\n", r"1 of 2 pairs .*line 3 of pairs.csv has no depth \(c.png\)"),
        ("rgb,depth\na.jpg,a.png\nb.jpg,\n", "1 of 2 pairs .*line 3 of pairs.csv has no depth"),
        ("rgb,depth\na.jpg,a.png\nb.jpg,c.jpg\n", "line 3 of pairs.csv: depth must be one of png.*, got 'c.jpg'"),
        (
            "rgb,depth\na.jpg,a.png\nb.png,a.png\n",
            r"line 3 of pairs.csv: rgb must have the ext.*'a.jpg' \(line 2 of pairs.csv\) in .*, got 'b.png'; ren",
        ),
        ("rgb,depth,key\na.jpg,a.png,x\nb.jpg,a.png,x\n", "line 2 .*and line 3 .*both get the key 'x'"),
        ('rgb,depth\n"a.jpg,a.png\n', "pairs.csv is not a readable CSV file in UTF-8"),
    ],
)
def test_a_wrong_csv_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png")
    with pytest.raises(SourceError, match=message):
        listed(tmp_path, text).digest()


def test_spaces_around_a_cell_make_no_other_class_or_part(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "a.png")
    lines = "a.jpg,a.png,chair,train,x,hall\na.jpg,a.png,chair ,train , y,hall \na.jpg,a.png, ,train,z,hall\n"
    source = listed(tmp_path, f"rgb,depth,label,split,key,group\n{lines}")
    assert (source.classes(), source.splits()) == (("chair",), ("train",))
    pairs = list(source.pairs("train"))
    assert [(pair.key, pair.label, pair.group) for pair in pairs] == [
        ("x", 0, "hall"), ("y", 0, "hall"), ("z", -1, "hall")
    ]  # fmt: skip


def test_a_class_without_training_pairs_is_refused_where_the_split_is_given(tmp_path: Path) -> None:
    write(tmp_path, "train/ant/1.jpg", "test/ant/2.jpg", "test/cat/3.jpg", "test/dog/4.jpg")
    told = r"the split leaves class 'cat' without training pairs, nor 1 more .* 1 of 3 pairs of 'test' have it"
    with pytest.raises(SourceError, match=told):
        photographs(tmp_path, "{split}/{label}/{key}.jpg").digest()


def test_where_no_training_pair_has_a_label_those_of_other_parts_are_taken(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "a.png")
    lines = "rgb,depth,label,split,key\na.jpg,a.png,,train,x\na.jpg,a.png,cat,test,y\n"
    assert [pair.label for pair in listed(tmp_path, lines).pairs("test")] == [0]


def test_an_absent_csv_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"csv: .*pairs.csv is missing; it holds no files"):
        Folder(str(tmp_path), {"rgb": {"modality": "rgb"}}, csv="pairs.csv").splits()


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        ("{split}/{key}.jpg", {"test_share": 0.5}, "test_share: the files already have a split"),
        ("{split}/{key}.jpg", {"test_groups": ("a",)}, "test_groups: the files already have a split"),
        ("{group}/{key}.jpg", {"test_groups": ("an",)}, "group 'an' is not known; did you mean 'ant'?"),
        ("{label}/{key}.jpg", {"test_groups": ("ant",)}, "group 'ant' is not known; the pairs have neither {group}"),
        (
            "{group}/{key}.jpg",
            {"test_groups": ("ant", "cat")},
            "test_groups ant, cat leaves none of 2 pairs for 'train'",
        ),
        ("{group}/{key}.jpg", {"test_share": 0.9}, "test_share 0.9 leaves none of 2 pairs for 'train'"),
        ("{label}/{key}.jpg", {"test_share": 0.1}, "test_share 0.1 leaves none of 2 pairs for 'test'"),
        ("{label}/{key}.jpg", {"test_share": 0.5}, "test_share 0.5 leaves none of 2 pairs for 'test'"),
        ("{label}/{group}/{key}.jpg", {"test_groups": ("a",)}, "test_groups a leaves class 'ant' without training"),
    ],
)
def test_a_division_the_pairs_do_not_have_is_refused(
    tmp_path: Path, pattern: str, options: dict[str, Any], message: str
) -> None:
    write(tmp_path, "ant/1.jpg", "cat/2.jpg", *(("ant/a/1.jpg", "cat/b/2.jpg") if "{label}/{group}" in pattern else ()))
    with pytest.raises(SourceError, match=message):
        photographs(tmp_path, pattern, **options).digest()


def test_thermal_pictures_need_a_stated_unit(tmp_path: Path) -> None:
    with io.BytesIO() as file:
        Image.fromarray(np.full((4, 5), 29_315, np.uint16)).save(file, "PNG")
        (tmp_path / "1.png").write_bytes(file.getvalue())
    members = {"thermal": {"modality": "thermal", "files": "{key}.png"}}
    expected = r"scale_k must be given, .*1.png .* is 29315, which is 293.15 K with scale_k: 0.01 \(kelvin x 100\)"
    with pytest.raises(SourceError, match=expected):
        [*Folder(str(tmp_path), members).pairs("train")]
    members["thermal"]["scale_k"] = 0.01  # type: ignore[assignment]
    assert len([*Folder(str(tmp_path), members).pairs("train")]) == 1


def configured(name: str, root: Path, **options: Any) -> Folder:
    """The source of a config that we ship, elsewhere."""
    source = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))["source"]
    assert source.pop("name") == "folder"
    return Folder(**source | {"root": str(root)} | options)


def test_frames_of_a_kinect_are_pairs_in_metres(tmp_path: Path) -> None:
    endings = ("color.jpg", "depth.png", "pose.txt")
    extract("kinect_room.tar", tmp_path, {f"kinect_room/frame-000{i}.{end}" for i in (232, 234) for end in endings})
    source = configured("kinect_room/shards.yaml", tmp_path / "kinect_room", test_share=0.5)
    (pair,) = source.pairs("test")
    metres = source.fields()["depth"].decode(pair.members["depth.png"])
    assert pair.key == "frame-000234"
    assert metres.shape == (1, 480, 640)
    assert metres[metres > 0].median() > 0.3
    assert metres.max() < 5  # a kitchen; this frame marks 12 pixels with 65535, which is not 65.5 m
    assert pair.facts["pose"][-4:] == [0, 0, 0, 1]  # type: ignore[index]


def test_cifar_as_folders_of_classes_is_labelled(tmp_path: Path) -> None:
    extract("cifar10.tar", tmp_path, {"train/airplane/0000.jpg", "train/automobile/0000.jpg"})
    source = configured("cifar10/shards.yaml", tmp_path)
    pairs = list(source.pairs("train"))
    assert (source.splits(), source.classes()) == (("train",), ("airplane", "automobile"))
    assert [(pair.key, pair.label) for pair in pairs] == [("airplane_0000", 0), ("automobile_0000", 1)]
    assert source.fields()["rgb"].decode(pairs[0].members["rgb.jpg"]).shape == (3, 32, 32)
