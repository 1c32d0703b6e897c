"""Planted faults in a short film of a moving scene, rendered for a colour and a depth camera, and films without one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from real import extract
from torch import Tensor

from crossmodal.data.pairing import check_pairing
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.sources import Pair
from modalities.audio import Audio
from modalities.common.random import generator
from modalities.depth import Depth
from modalities.rgb import Rgb
from modalities.synthetic.scene import draw_scene
from pipelines.__main__ import main

FRAMES = 60
MIRRORED = "depth is mirrored left to right against rgb"
RGB, DEPTH, AUDIO = Rgb(), Depth(), Audio()


@dataclass(frozen=True)
class Film:
    """Frames of one group, as signals."""

    rgb: list[Tensor]
    depth: list[Tensor]
    audio: list[Tensor] = field(default_factory=list)

    def warnings(self, folder: Path, colour: str = "rgb") -> list[str]:
        """The warnings about shards of the film, written to a folder; `colour` is the name of its colour pictures."""
        members = {"rgb": (RGB, "jpg"), "depth": (DEPTH, "png"), "audio": (AUDIO, "flac")}
        names = {"rgb": colour, "depth": "depth", "audio": "audio"}
        members = {name: each for name, each in members.items() if getattr(self, name)}
        frames = min(len(getattr(self, name)) for name in members)

        def pairs() -> Iterator[Pair]:
            for number in range(frames):
                signals = {f"{names[name]}.{end}": kind.encode(getattr(self, name)[number]) for name, (kind, end) in
                           members.items()}  # fmt: skip
                yield Pair(f"{number:04d}", signals, group="walk")

        fields = {names[name]: kind for name, (kind, _) in members.items()}
        write_shards(pairs(), folder, fields=fields, classes=(), warn=lambda _: None)
        return [warning.removeprefix(f"{folder}: ") for warning in check_pairing(Shards.open(folder))]


def shoot(seed: int = 0, speed: float = 1.0) -> Film:
    """A scene whose solids wander over the picture, seen with the noise of a sensor."""
    random, film = generator("film", seed), Film([], [])
    scene = draw_scene(random)
    scene = replace(scene, solids=scene.solids[:1] + draw_scene(random).solids[:1])
    for number in range(FRAMES):
        now = speed * number
        wandering = tuple(
            replace(
                solid,
                x=0.6 * math.sin(0.7 * now + 2 * place + seed) * math.cos(0.13 * now),
                y=0.6 * math.cos(0.9 * now + place),
            )
            for place, solid in enumerate(scene.solids)
        )
        moment = replace(scene, solids=wandering)
        picture = RGB.render(moment)
        film.rgb.append((picture + 0.02 * torch.randn(picture.shape, generator=random)).clamp(0, 1))
        distance = DEPTH.render(moment)
        film.depth.append(distance * (1 + 0.003 * torch.randn(distance.shape, generator=random)))
    return film


FILM, SLOW = shoot(), shoot(speed=0.1)


def moved(pictures: list[Tensor], right: int, down: int = 0) -> list[Tensor]:
    return [picture.roll((down, right), (1, 2)) for picture in pictures]


def test_a_film_without_a_fault_gives_no_warning(tmp_path: Path) -> None:
    assert FILM.warnings(tmp_path) == []


def test_a_slow_film_gives_no_warning(tmp_path: Path) -> None:
    assert SLOW.warnings(tmp_path) == []


def test_a_film_of_other_scenes_gives_no_warning(tmp_path: Path) -> None:
    assert shoot(seed=1).warnings(tmp_path) == []


def test_too_few_pairs_give_no_warning(tmp_path: Path) -> None:
    assert Film(FILM.rgb[:20], FILM.depth[20:40]).warnings(tmp_path) == []


def flickering(film: Film) -> list[Tensor]:
    return [picture * (0.9 if number % 2 else 1.0) for number, picture in enumerate(film.rgb)]


def sounds(*seconds: float) -> list[Tensor]:
    return [0.1 * torch.randn(1, round(16000 * each), generator=generator(index)) for index, each in enumerate(seconds)]


FAULTS: dict[str, tuple[Callable[[Film], Film], str]] = {
    "depth early": (
        lambda film: Film(film.rgb[:-1], film.depth[1:]),
        "apart in time by 1 pair: rgb agrees best with depth of the pair 1 earlier (their edges correlate by 0.3",
    ),
    "depth late": (
        lambda film: Film(film.rgb[2:], film.depth[:-2]),
        "apart in time by 2 pairs: rgb agrees best with depth of the pair 2 later (their edges correlate by 0.3",
    ),
    "mirrored": (
        lambda film: Film(film.rgb, [each.flip(2) for each in film.depth]),
        "depth is mirrored left to right against rgb: their edges correlate by 0.2",
    ),
    "moved right": (
        lambda film: Film(film.rgb, moved(film.depth, 2)),
        "depth is not registered to rgb: it lies 3.1 % of the width to the right and 0.0 % of the height below",
    ),
    "moved up": (
        lambda film: Film(film.rgb, moved(film.depth, 0, -3)),
        "depth is not registered to rgb: it lies 0.0 % of the width to the right and 4.7 % of the height above",
    ),
    "another camera": (
        lambda film: Film(film.rgb, shoot(seed=5).depth),
        "pairs of rgb and depth are no more alike than shuffled pairs: their edges correlate by 0.0",
    ),
    "ten times too far": (
        lambda film: Film(film.rgb, [each * 10 for each in film.depth]),
        "depth has hardly anything near: with scale_m=0.001 the median is",
    ),
    "25 times too near": (
        lambda film: Film(film.rgb, [each / 25 for each in film.depth]),
        "depth is very near: with scale_m=0.001 the median is",
    ),
    "frozen": (
        lambda film: Film(film.rgb, [film.depth[number - number % 10 // 9] for number in range(FRAMES)]),
        "depth repeats the pair before, bit for bit, in 6 of 59 consecutive pairs in which rgb changes (10%)",
    ),
    "flicker": (
        lambda _: Film(flickering(SLOW), SLOW.depth),
        "the brightness of rgb flickers: it changes by 10.",
    ),
    "silent": (
        lambda film: Film(film.rgb, film.depth, [torch.zeros(1, 8000)] * FRAMES),
        "audio is silent in 60 of 60 pairs",
    ),
    "short sound": (
        lambda film: Film(film.rgb, film.depth, sounds(*[0.5] * 58, 0.3, 0.4)),
        "audio lasts 0.5 s, but from 0.3 to 0.4 s in 2 of 60 pairs",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_with_its_number(tmp_path: Path, fault: str) -> None:
    plant, warning = FAULTS[fault]
    warnings = plant(FILM).warnings(tmp_path)
    assert len(warnings) == 1 and warning in warnings[0], warnings


def test_pictures_of_another_name_are_checked_alike(tmp_path: Path) -> None:
    (warning,) = Film(flickering(SLOW), SLOW.depth).warnings(tmp_path, colour="left")
    assert "the brightness of left flickers" in warning


def test_a_scene_that_stands_still_is_not_taken_for_wrong_pairs(tmp_path: Path) -> None:
    still = Film([FILM.rgb[0]] * FRAMES, [FILM.depth[0]] * FRAMES)
    assert still.warnings(tmp_path) == []


def test_sounds_of_any_length_give_no_warning(tmp_path: Path) -> None:
    lengths = torch.linspace(0.2, 0.6, FRAMES).tolist()
    assert Film(FILM.rgb, FILM.depth, sounds(*lengths)).warnings(tmp_path) == []


def test_pictures_that_move_alike_in_another_pair_are_apart_in_time(tmp_path: Path) -> None:
    random, shaken = generator("textures"), Film([], [])
    places = (10 + 4 * torch.randn(FRAMES, 2, generator=random)).round().clamp(0, 40).long().tolist()
    for number, (y, x) in enumerate(places):
        if number % 6 == 0:  # other textures, so that only the motion of both pictures agrees
            first, second = (
                torch.rand(1, 120 // side, 120 // side, generator=random)
                .repeat_interleave(side, 1)
                .repeat_interleave(side, 2)
                for side in (3, 5)
            )
        shaken.rgb.append(first[:, y : y + 64, x : x + 64].expand(3, -1, -1))
        shaken.depth.append(1 + second[:, y : y + 64, x : x + 64])
    warning = Film(shaken.rgb[:-1], shaken.depth[1:]).warnings(tmp_path)[0]
    assert "rgb agrees best with depth of the pair 1 earlier (their pictures then move alike to 0." in warning


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config for files of the film whose depth is mirrored."""
    folder = tmp_path_factory.mktemp("mirrored")
    for number, (picture, distance) in enumerate(zip(FILM.rgb, FILM.depth, strict=True)):
        (folder / f"{number:04d}.jpg").write_bytes(RGB.encode(picture))
        (folder / f"{number:04d}.png").write_bytes(DEPTH.encode(distance.flip(2)))
    (folder / "shards.yaml").write_text(
        f"source: {{name: folder, root: {folder}, members: {{rgb: {{modality: rgb, files: '{{key}}.jpg'}}, "
        f"depth: {{modality: depth, files: '{{key}}.png', scale_m: 0.001}}}}}}\noutput: {folder}/pairs\n"
    )
    return folder / "shards.yaml"


def test_packing_warns_of_the_pairing(mirrored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", str(mirrored), f"output={tmp_path}"]) == 0
    assert capsys.readouterr().out.count(f"{tmp_path}/train: {MIRRORED}") == 1


def test_the_command_warns_of_the_pairing_of_shards_only_if_it_is_asked_to(
    mirrored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for words in ([str(mirrored), "pairing=false", f"output={tmp_path}"], ["--check"], ["--check", "--pairing"]):
        assert main(["shards", *words, *([str(tmp_path)] if words[0] == "--check" else [])]) == 0
        counts.append(capsys.readouterr().out.count(MIRRORED))
    assert counts == [0, 0, 1]


def test_frames_of_a_walk_are_of_one_time_and_place_and_a_planted_offset_is_found(tmp_path: Path) -> None:
    extract("tum_fr1_rpy_8s.tar", tmp_path, lambda name: name.endswith((".txt", ".png")))
    (root,) = {path.parent for path in tmp_path.glob("**/rgb.txt")}
    lines = {name: (root / f"{name}.txt").read_text().splitlines() for name in ("rgb", "depth")}
    times = {
        name: {float(line.split()[0]): root / line.split()[1] for line in each if line[0] != "#"}
        for name, each in lines.items()
    }
    film, depth = Film([], []), Depth(scale_m=0.0002)
    for stamp, path in [*times["rgb"].items()][:120]:
        nearest = min(times["depth"], key=lambda other: abs(other - stamp))
        film.rgb.append(RGB.decode(path.read_bytes())[:, ::2, ::2])
        film.depth.append(depth.decode(times["depth"][nearest].read_bytes())[:, ::2, ::2])
    assert film.warnings(tmp_path / "pairs") == []
    (warning,) = Film(film.rgb[1:], film.depth[:-1]).warnings(tmp_path / "late")
    assert "rgb agrees best with depth of the pair 1 later" in warning
