"""One run of the game engine for the source `doom`: python doom_game.py SESSION.json REPLY.npz.

The engine writes into its working directory, so `doom` starts this file by its path, in a process and a folder of its
own. This also makes the pairs independent of earlier runs. The file imports neither torch nor this package, so that a
run starts in half a second.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

UNITS_PER_M = 32.0  # map units per metre: the player's height of 56 units is 1.75 m
TICS_PER_S = 35
CREATURES = {  # class name -> (actor in the engine, radius in map units)
    "zombie": ("Zombieman", 20),
    "shotgun_zombie": ("ShotgunGuy", 20),
    "chaingun_zombie": ("ChaingunGuy", 20),
    "imp": ("DoomImp", 20),
    "demon": ("Demon", 30),
    "lost_soul": ("LostSoul", 16),
    "cacodemon": ("Cacodemon", 31),
    "hell_knight": ("HellKnight", 24),
    "baron": ("BaronOfHell", 24),
    "arachnotron": ("Arachnotron", 64),
    "pain_elemental": ("PainElemental", 31),
    "revenant": ("Revenant", 20),
    "mancubus": ("Fatso", 48),
    "arch_vile": ("Archvile", 20),
    "cyberdemon": ("Cyberdemon", 40),
}
SCENERY = ("wall", "floor", "ceiling", "sky", "object")  # what a pixel shows, by value; the next value: the creature
SKY = 127  # value of the depth buffer
_FLAT = 1  # floors and ceilings in the labels buffer; 0: walls and sky, others: things
_WIDTH, _HEIGHT = 320, 240  # size of the engine's pictures, for which depth is calibrated
_TRIES = 80  # places tried for one sample before a level is given up; 1.6 are needed on average
_QUIET = 100  # minimum loudness of sound: root mean square of 16-bit samples, -50 dB of full scale
_PATIENCE = 14  # waits of 8 tics for a sound: a lost soul is silent until it attacks, after two to three seconds


@dataclass(frozen=True)
class Session:
    """The settings of one run of the engine."""

    level: str  # map of `levels_wad`: "MAP05"
    seed: int  # seed of the engine and of everything random here
    split: str  # split of the samples
    first: int  # number of the first sample in its split
    creatures: tuple[str, ...]  # names from CREATURES, one sample each
    wad: str  # path of the game whose art and sounds are used
    levels_wad: str  # path of the game with the level; its art and sounds replace those of the same names
    size: int  # side of a stored picture, in pixels
    rate_hz: int  # sampling rate of sound; 0: no sound is recorded
    sound_tics: int  # length of the sound, which ends when the picture is taken
    gap_m: tuple[float, float]  # minimum and maximum distance from the camera to the creature's edge
    crop: tuple[float, float]  # minimum and maximum of the picture's side over the creature's larger side


@dataclass(frozen=True)
class _Level:
    """A map: its blocking lines, and the places where its author put things."""

    starts: np.ndarray  # [lines, 2] map units
    ends: np.ndarray
    things: np.ndarray  # [things, 2]

    def room(self, point: np.ndarray) -> float:
        """The distance to the nearest blocking line."""
        along = self.ends - self.starts
        share = ((point - self.starts) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9)
        nearest = self.starts + np.clip(share, 0, 1)[:, None] * along
        return float(np.linalg.norm(nearest - point, axis=1).min())

    def is_clear(self, one: np.ndarray, other: np.ndarray) -> bool:
        """True if no blocking line lies between two points."""
        along, line = other - one, self.ends - self.starts
        sides = _cross(along, self.starts - one) * _cross(along, self.ends - one)
        line_sides = _cross(line, one - self.starts) * _cross(line, other - self.starts)
        return not bool(((sides <= 0) & (line_sides <= 0)).any())

    def is_free_of_things(self, point: np.ndarray) -> bool:
        """True if the player touches no thing there, which would make a sound."""
        return float(np.linalg.norm(self.things - point, axis=1).min()) > 48


@dataclass(frozen=True)
class _Place:
    """The places of creature and camera in map units, and the camera's direction in degrees."""

    creature: np.ndarray
    camera: np.ndarray
    look: float


def play(session: Session) -> dict[str, Any]:
    """The samples of a session as arrays [samples, ...]: rgb, depth (the engine's values), labels, audio, facts.

    Raises:
        LookupError: the wad has no such level.
        RuntimeError: the engine stopped, or no place in the level shows a creature.
    """
    level = _read_level(Path(session.levels_wad), session.level)
    generator = np.random.default_rng(session.seed)
    game = _start(session)
    try:
        game.send_game_command("god")
        game.make_action([0.0])
        samples = [_record(game, level, creature, session, generator) for creature in session.creatures]
    finally:
        game.close()
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _read_level(wad: Path, name: str) -> _Level:
    """A map from its lumps in the wad; the engine has it too, but adds 2 ms to each state for it."""
    content = wad.read_bytes()
    entry = np.dtype([("begin", "<i4"), ("size", "<i4"), ("name", "S8")])
    count, begin = np.frombuffer(content, "<i4", count=2, offset=4)
    directory = np.frombuffer(content, entry, count=count, offset=begin)
    headers = np.flatnonzero(directory["name"] == name.encode())
    if not headers.size:
        raise LookupError(f"there is no level {name!r} in {wad}")
    header = int(headers[0])
    lumps = {
        lump["name"]: content[lump["begin"] : lump["begin"] + lump["size"]]
        for lump in directory[header + 1 : header + 11]
    }
    vertices = np.frombuffer(lumps[b"VERTEXES"], "<i2").reshape(-1, 2).astype(float)
    lines = np.frombuffer(lumps[b"LINEDEFS"], "<u2").reshape(-1, 7)  # start, end, flags, special, tag, right, left
    blocking = lines[(lines[:, 6] == 0xFFFF) | (lines[:, 2] & 1 == 1)]  # nothing lies behind, or marked as blocking
    things = np.frombuffer(lumps[b"THINGS"], "<i2").reshape(-1, 5)[:, :2].astype(float)
    return _Level(vertices[blocking[:, 0]], vertices[blocking[:, 1]], things)


def _start(session: Session) -> Any:
    import vizdoom

    game = vizdoom.DoomGame()
    game.set_doom_game_path(session.wad)
    if session.levels_wad != session.wad:
        game.set_doom_scenario_path(session.levels_wad)
    game.set_doom_config_path(str(Path.cwd() / "engine.ini"))
    game.set_doom_map(session.level)
    game.set_seed(session.seed)
    game.set_mode(vizdoom.Mode.PLAYER)  # the engine waits for us, so its output does not depend on the machine's speed
    game.set_episode_timeout(0)
    game.set_window_visible(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_labels_buffer_enabled(True)
    for part in ("hud", "weapon", "crosshair", "corpses", "decals", "messages", "screen_flashes", "particles"):
        getattr(game, f"set_render_{part}")(False)
    if session.rate_hz:
        game.set_sound_enabled(True)
        game.set_audio_buffer_enabled(True)
        game.set_audio_sampling_rate(getattr(vizdoom.SamplingRate, f"SR_{session.rate_hz}"))
        game.set_audio_buffer_size(session.sound_tics)
    variables = vizdoom.GameVariable
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_available_game_variables([variables.ANGLE, variables.CAMERA_POSITION_X, variables.CAMERA_POSITION_Y])
    # Without the first, sound aborts if OpenAL lacks its effects extension. The second silences removed creatures. The
    # third keeps "A secret is revealed" out of colour and depth, which set_render_messages does not.
    game.add_game_args("+snd_efx 0 +compat_soundcutoff 1 +cl_showsecretmessage 0 -nomonsters")
    game.init()
    return game


def _record(
    game: Any, level: _Level, creature: str, session: Session, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Places a creature and the camera at random until the creature is well visible and audible."""
    actor, radius = CREATURES[creature]
    seen_silent = 0
    for _ in range(_TRIES):
        _meet(game, _draw_place(level, radius, session.gap_m, generator), actor, radius, generator)
        state = _wait(game, session, generator)
        if state is None:
            raise RuntimeError(f"the episode in {session.level} ended before its samples were recorded")
        # A pain elemental spits lost souls. Removal takes effect in the next tic, far from the next place.
        for name in (actor, "LostSoul") if creature == "pain_elemental" else (actor,):
            game.send_game_command(f"remove {name}")
        seen = _creatures(state)
        if len(seen) == 1 and seen[0].object_name == actor and _is_well_seen(seen[0], state):
            if not session.rate_hz or _is_heard(state):
                return _sample(state, seen[0], session, generator)
            seen_silent += 1
    result = f"seen {seen_silent} times but never heard (does OpenAL work?)" if seen_silent else "not seen"
    raise RuntimeError(f"in {_TRIES} tries a {creature} was {result} in {session.level}")


def _meet(game: Any, place: _Place, actor: str, radius: float, generator: np.random.Generator) -> None:
    """Puts creature and camera into place; the creature will wake, walk and call."""
    import vizdoom

    angle = game.get_game_variable(vizdoom.GameVariable.ANGLE)
    facing = np.array([math.cos(math.radians(place.look)), math.sin(math.radians(place.look))])
    summoner = place.creature - (2 * radius + 16) * facing  # the engine summons this far ahead of the player
    game.send_game_command(f"warp {summoner[0]:.0f} {summoner[1]:.0f}")
    game.make_action([(angle - place.look + 180) % 360 - 180])
    turned = 180 + int(generator.integers(-90, 91))  # relative to the camera: it must see the player to wake
    game.send_game_command(f"summon {actor} {turned}")
    game.send_game_command(f"warp {place.camera[0]:.0f} {place.camera[1]:.0f}")


def _wait(game: Any, session: Session, generator: np.random.Generator) -> Any:
    """The state at a random moment, after earlier sounds have ended and the creature has called."""
    game.make_action([0.0], max(20, session.sound_tics) + int(generator.integers(16)))
    state = game.get_state()
    for _ in range(_PATIENCE):
        if state is None or not _creatures(state) or not session.rate_hz or _is_heard(state):
            break
        game.make_action([0.0], 8)
        state = game.get_state()
    return state


def _creatures(state: Any) -> list[Any]:
    """The labels of the creatures in the picture."""
    return [label for label in state.labels if label.object_category == "Monster"]


def _draw_place(level: _Level, radius: float, gap_m: tuple[float, float], generator: np.random.Generator) -> _Place:
    """A random place for creature and camera, with room for both and nothing in between."""
    for _ in range(100_000):
        thing = level.things[generator.integers(len(level.things))]
        creature = thing + generator.uniform(-200, 200, 2)
        direction = generator.uniform(-math.pi, math.pi)
        distance = radius + generator.uniform(*gap_m) * UNITS_PER_M
        camera = creature + distance * np.array([math.cos(direction), math.sin(direction)])
        if (
            level.room(creature) > radius + 4
            and level.is_clear(thing, creature)
            and level.room(camera) > 24
            and level.is_clear(creature, camera)
            and level.is_free_of_things(camera)
        ):
            return _Place(creature, camera, math.degrees(direction) + 180 + generator.uniform(-25, 25))
    raise RuntimeError("the level has no room for a creature and a camera at this distance")


def _is_well_seen(label: Any, state: Any) -> bool:
    """True if the creature is whole, large enough to be recognised and not mostly hidden."""
    within = label.x > 0 and label.y > 0 and label.x + label.width < _WIDTH
    return within and label.height >= 24 and int((state.labels_buffer == label.value).sum()) >= 300


def _is_heard(state: Any) -> bool:
    """True if the recorded sound is loud enough."""
    return float(np.sqrt(np.mean(state.audio_buffer.astype(np.float32) ** 2))) > _QUIET


def _sample(state: Any, label: Any, session: Session, generator: np.random.Generator) -> dict[str, np.ndarray]:
    box = _crop(label, session.crop, generator)
    shape = (session.size, session.size)
    rgb = Image.fromarray(state.screen_buffer).resize(shape, Image.Resampling.BOX, box=box)
    depth = Image.fromarray(state.depth_buffer).resize(shape, Image.Resampling.NEAREST, box=box)
    labels = Image.fromarray(_classes(state, label)).resize(shape, Image.Resampling.NEAREST, box=box)
    angle, *camera = state.game_variables
    ahead = math.radians(angle)
    east, north = label.object_position_x - camera[0], label.object_position_y - camera[1]
    facts = {
        "distance_m": round((east * math.cos(ahead) + north * math.sin(ahead)) / UNITS_PER_M, 4),
        "bearing_rad": round(math.remainder(ahead - math.atan2(north, east), math.tau), 4),
        "crop": box,
    }
    sample = {
        "rgb": np.array(rgb),
        "depth": np.array(depth),
        "labels": np.array(labels),
        "facts": np.array(json.dumps(facts)),
    }
    return sample | ({"audio": state.audio_buffer.copy()} if session.rate_hz else {})


def _classes(state: Any, creature: Any) -> np.ndarray:
    """The class of each pixel: a number of SCENERY, or the next one for the creature.

    The camera looks level and no floor in these levels slopes, so every floor that it sees lies below the middle row
    and every ceiling above.
    """
    buffer, below = state.labels_buffer, np.arange(_HEIGHT)[:, None] >= _HEIGHT // 2
    wall, floor, ceiling, sky, thing = range(len(SCENERY))
    classes = np.where(buffer == _FLAT, np.where(below, floor, ceiling), wall)
    classes[(buffer == 0) & (state.depth_buffer == SKY)] = sky
    classes[buffer > _FLAT] = thing
    classes[buffer == creature.value] = len(SCENERY)
    return classes.astype(np.uint8)


def _crop(label: Any, crop: tuple[float, float], generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A square around the creature within the picture, as a detector would draw it: left, top, right, bottom."""
    side = min(round(max(label.width, label.height) * generator.uniform(*crop)), _HEIGHT)
    middle = (
        np.array([label.x + label.width / 2, label.y + label.height / 2]) + generator.uniform(-0.08, 0.08, 2) * side
    )
    left, top = np.clip(np.round(middle - side / 2), 0, [_WIDTH - side, _HEIGHT - side]).astype(int).tolist()
    return left, top, left + side, top + side


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]


if __name__ == "__main__":
    np.savez(sys.argv[2], **play(Session(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
