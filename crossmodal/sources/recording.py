"""Recordings: frames of several sensors with stamps of their own, put together in time and space."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from crossmodal.sources import Numbered, Pair, Source, SourceError
from crossmodal.sources.common.division import divide
from crossmodal.sources.common.listing import Entry
from crossmodal.sources.common.members import open_member, unit_of_depth
from crossmodal.sources.common.patterns import Pattern, some_files
from crossmodal.sources.common.stamps import digest_of
from crossmodal.sources.recordings.association import nearest
from crossmodal.sources.recordings.content import as_member, as_numbers, sound_member
from crossmodal.sources.recordings.opening import open_recordings
from crossmodal.sources.recordings.plan import SECOND, Moments, Origin, find_stream, match, thin_out
from crossmodal.sources.recordings.rig import Rig
from crossmodal.sources.recordings.stream import Recording, safe_name
from crossmodal.sources.recordings.together import together
from modalities import Modality
from modalities.codecs.depth import readings_of
from modalities.common.catalogue import suggest
from modalities.depth import Depth

OWN = ("stream", "offset_ms", "drift_ppm", "seconds")  # options of a member that are not of its stored bytes


@dataclass(frozen=True)
class Recorded(Numbered, Source):
    """Bags (ROS 1, ROS 2, MCAP), videos, LeRobot data sets, and lists of stamped files as in TUM RGB-D.

    Every frame of the first member takes the nearest frame of each other member; a frame is used once. JPEG and PNG
    stay byte for byte, other frames are stored without loss. A recording, or a segment of it, is a group. `crossmodal
    init` writes such a config from a recording.

    Raises:
        SourceError: an option is misspelt or contradicts another.
    """

    root: str  # a recording, or a folder of recordings
    # field: {stream: its name in the recording, modality: name, options of the stored bytes; offset_ms and drift_ppm of
    # its clock, ahead of that of the first member; seconds of sound around a pair}
    members: dict[str, dict[str, Any]]
    files: str | None = None  # pattern of the recordings below root, "{label}/{key}.mcap"; null: all of them
    slop_ms: float = 20.0  # greatest difference of two frames that go together, milliseconds
    register: dict[str, str] = field(default_factory=dict)  # depth: the member whose camera shall see it, {depth: rgb}
    # member: {width, height, matrix: [fx, fy, cx, cy], distortion: [...], model: plumb_bob | rational_polynomial |
    # equidistant}, in pixels, where the recording does not say
    cameras: dict[str, dict[str, Any]] = field(default_factory=dict)
    # depth: 16 numbers, the rows of the matrix that takes its points into the camera it is registered to, metres, where
    # the recording does not say
    transforms: dict[str, list[float]] = field(default_factory=dict)
    pose: str | None = None  # stream of camera poses, for the fact "pose" and for moved_m and turned_deg
    every_s: float = 0.0  # least time from one pair to the next, seconds
    moved_m: float = 0.0  # least way of the camera from one pair to the next, metres, or turned_deg
    turned_deg: float = 0.0  # least turn of the camera from one pair to the next, degrees, or moved_m
    segment_s: float | None = None  # length of the segments of a recording that are groups; null: all of it is one
    gap_s: float = 1.0  # training pairs nearer than this to a pair of another split are left out, seconds
    test_share: float = 0.0  # share of the pairs to hold out as "test", in whole groups
    test_seed: int = 0  # seed that draws the groups of test_share
    test_groups: tuple[str, ...] = ()  # groups to hold out as "test", instead of a share

    def __post_init__(self) -> None:
        if not self.members:
            raise SourceError("members must name at least one field, such as rgb: {modality: rgb, stream: NAME}")
        if not 0 <= self.test_share < 1:
            raise SourceError(f"test_share must be at least 0 and below 1, got {self.test_share}")
        if self.test_share and self.test_groups:
            raise SourceError("test_share and test_groups exclude each other; take one of them out")
        for name in ("slop_ms", "every_s", "moved_m", "turned_deg", "gap_s"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise SourceError(f"{name} must be at least 0 and finite, got {value}")
        if self.segment_s is not None and not 0 < self.segment_s < float("inf"):
            raise SourceError(f"segment_s must be above 0 and finite, got {self.segment_s}")
        if (self.moved_m or self.turned_deg) and self.pose is None:
            raise SourceError("moved_m and turned_deg need pose, the stream of camera poses")
        for name in self.register:
            if name in self._opened and not isinstance(self._opened[name], Depth):
                raise SourceError(f"register.{name}: only depth can be registered")
        self._rig.check()
        if self._origins[0].seconds:
            raise SourceError(f"members.{self._origins[0].member} is sound; put a member with frames first")

    def fields(self) -> dict[str, Modality]:
        """The members, with the options of their stored bytes."""
        return {name: self._stated(name, modality) for name, modality in self._opened.items()}

    def classes(self) -> tuple[str, ...]:
        """The labels of the recordings, sorted: {label} of `files`, or what a recording itself is labelled."""
        return tuple(sorted({self._values(each).get("label", "") for each in self._recordings} - {""}))

    def splits(self) -> tuple[str, ...]:
        """The splits, "train" first."""
        return tuple(self._parts)

    def digest(self) -> str:
        """A hash of the options except `root` and of the name, size and time of the recordings' files."""
        options = {name: value for name, value in asdict(self).items() if name != "root"}
        return digest_of(repr(options), (path for each in self._recordings for path in each.files))

    def dropped(self) -> list[str]:
        """Empty; see `left_out`."""
        return []

    def left_out(self) -> dict[str, int]:
        """Frames of the first member that are in no pair, by reason, and recordings that are listed but not there."""
        lost = sum((moments.left_out for moments in self._moments.values()), Counter[str]())
        frames = {f"frames that {reason}": count for reason, count in (lost + self._divided[1]).items() if count}
        absent = sum(each.absent for each in self._recordings)
        return frames | ({"recordings whose files are missing": absent} if absent else {})

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pairs of a split with their numbers, recording by recording, in the order of time.

        Raises:
            SourceError: the split is unknown, or a frame cannot be read, decoded or registered.
        """
        if split not in self._parts:
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self._parts))}")
        first = 0
        for recording in self._recordings:
            places = np.asarray(self._parts[split].get(recording.name, []), dtype=np.int64)
            chosen = [place for place in range(len(places)) if wanted(first + place)]
            if chosen:
                yield from zip((first + place for place in chosen), self._of(recording, places[chosen]), strict=True)
            first += len(places)

    def _of(self, recording: Recording, places: Int64[np.ndarray, " pairs"]) -> Iterator[Pair]:
        moments = self._moments[recording.name].take(places)
        modalities, labels = self.fields(), {name: label for label, name in enumerate(self.classes())}
        registrations = {name: self._rig.registration(recording, name) for name in self.register}
        reference = self._origins[0].member
        try:
            camera = self._rig.camera(recording, reference)
        except SourceError:  # a lens that nothing here needs
            camera = None
        poses = self._poses(recording, moments)
        framed = [origin for origin in self._origins if not origin.seconds]
        sounds = {
            origin.member: recording.sound(origin.stream, moments.numbers[origin.member], origin.seconds)
            for origin in self._origins
            if origin.seconds
        }
        for place, frames in enumerate(together(recording, framed, moments)):
            members = {}
            for origin in framed:
                name, frame = origin.member, frames[origin.member]
                where = f"{origin.on(recording)}: frame {frame.number}"
                extension, payload = as_member(frame, modalities[name], where, registrations.get(name))
                members[f"{name}.{extension}"] = payload
            for name, pieces in sounds.items():
                extension, payload = sound_member(*next(pieces))
                members[f"{name}.{extension}"] = payload
            facts: dict[str, object] = {"stamp_ns": int(moments.stamps[place])}
            if moments.difference_ns:
                facts["difference_ms"] = {
                    name: round(float(values[place]) / 1e6, 3) for name, values in moments.difference_ns.items()
                }
            if camera is not None:
                facts["intrinsics"] = [*camera.matrix]
            if poses is not None:
                facts["pose"] = poses[place].ravel().tolist()
            number = int(moments.numbers[reference][place])
            yield Pair(
                key=f"{recording.name}_{number:06d}",
                members=members,
                label=labels.get(self._values(recording).get("label", ""), -1),
                group=self._group(recording, int(moments.stamps[place])),
                facts=facts,
                paths=dict.fromkeys(members, f"frame {number} of {recording.name}"),
            )

    @cached_property
    def _rig(self) -> Rig:
        streams = {origin.member: origin.stream for origin in self._origins}
        return Rig(streams, self.register, self.cameras, self.transforms)

    @cached_property
    def _opened(self) -> dict[str, Modality]:
        return {name: open_member(name, options, *OWN) for name, options in self.members.items()}

    @cached_property
    def _origins(self) -> list[Origin]:
        origins = []
        for name, options in self.members.items():
            if not isinstance(options.get("stream"), str):
                raise SourceError(f"members.{name}.stream must be given, the name of a stream of the recording")
            numbers = {}
            for option in OWN[1:]:
                value = options.get(option, 0.0)
                if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
                    raise SourceError(f"members.{name}.{option} must be a finite number, got {value!r}")
                numbers[option] = float(value)
            origins.append(Origin(name, options["stream"], **numbers))
        return origins

    @cached_property
    def _found(self) -> list[tuple[Recording, dict[str, str]]]:
        """The recordings, with the values of the placeholders of `files`."""
        root = Path(self.root)
        if self.files is None:
            found = [(each, {"label": each.label} if each.label else {}) for each in open_recordings(root)]
        else:
            pattern = Pattern(self.files, "files")
            if "key" not in pattern.names:
                raise SourceError(f"files: {self.files!r} must contain {{key}}, which names the recording")
            if not (paths := pattern.find(root)):
                raise SourceError(f"files: {self.files!r} matches nothing in {root}; {some_files(root)}")
            found = []
            for values, path in paths.items():
                named = dict(zip(pattern.names, values, strict=True))
                found += [(each, named) for each in open_recordings(root / path)]
        names = Counter(each.name for each, _ in found)
        for each, known in found:
            if names[each.name] > 1:  # the values of the pattern tell them apart
                each.name = safe_name("_".join([*known.values(), each.name]))
        if twice := next((name for name, count in Counter(each.name for each, _ in found).items() if count > 1), None):
            raise SourceError(f"root: several recordings are called {twice!r}; rename them, or set files")
        return found

    @property
    def _recordings(self) -> list[Recording]:
        return [each for each, _ in self._found]

    def _values(self, recording: Recording) -> dict[str, str]:
        return next(values for each, values in self._found if each is recording)

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        """The moments of every recording that become pairs."""
        reference, *others = self._origins
        chosen = {}
        for recording in self._recordings:
            moments = match(recording, reference, others, self.slop_ms)
            poses = None
            if self.pose is not None:
                near, _ = self._nearest_poses(recording, moments)
                moments = moments.take(np.flatnonzero(near), f"have no pose within {self.slop_ms:g} ms")
                if self.moved_m or self.turned_deg:
                    poses = self._poses(recording, moments)
            chosen[recording.name] = thin_out(
                moments, every_s=self.every_s, poses=poses, moved_m=self.moved_m, turned_deg=self.turned_deg
            )
        return chosen

    def _nearest_poses(self, recording: Recording, moments: Moments) -> tuple[np.ndarray, Int64[np.ndarray, " m"]]:
        """For each moment, whether a pose lies within the slop, and the number of the nearest."""
        assert self.pose is not None
        stream = find_stream(recording, self.pose, "pose")
        if stream.kind != "pose" or not stream.frames:
            raise SourceError(f"pose: stream {self.pose!r} of {recording.name} holds no poses; remove it")
        stamps = recording.stamps(self.pose)
        order = np.argsort(stamps, kind="stable")
        places = order[nearest(moments.stamps, stamps[order])]
        return np.abs(stamps[places] - moments.stamps) <= self.slop_ms * 1e6, places

    def _poses(self, recording: Recording, moments: Moments) -> Float[np.ndarray, "moments 4 4"] | None:
        if self.pose is None:
            return None
        _, places = self._nearest_poses(recording, moments)
        numbers = np.unique(places)
        poses = {frame.number: as_numbers(frame) for frame in recording.frames({self.pose: numbers})}
        return np.asarray([poses[int(number)] for number in places], dtype=np.float64).reshape(-1, 4, 4)

    def _group(self, recording: Recording, stamp: int) -> str:
        group = self._values(recording).get("group") or recording.name
        if self.segment_s is None:
            return group
        segment = int((stamp - int(self._moments[recording.name].stamps[0])) // (self.segment_s * SECOND))
        return f"{recording.name}_{segment:04d}"

    @property
    def _parts(self) -> dict[str, dict[str, list[int]]]:
        return self._divided[0]

    @cached_property
    def _divided(self) -> tuple[dict[str, dict[str, list[int]]], Counter[str]]:
        """The places of each split's moments by recording, and how many lie too near to another split."""
        entries, places = [], {}
        for recording in self._recordings:
            values = {name: value for name, value in self._values(recording).items() if name in ("label", "split")}
            for place, stamp in enumerate(self._moments[recording.name].stamps.tolist()):
                name = f"{recording.name}_{place}"
                places[name] = recording.name, place
                own = values | {"key": name, "group": self._group(recording, stamp)}
                entries.append(Entry(own, {}, name, recording.name))
        groups = {entry.values["group"] for entry in entries}
        if self.test_share and len(groups) == 1:
            raise SourceError(
                f"test_share: {groups.pop()} is the only group, so it cannot be divided; set segment_s, such as 10"
            )
        parts: dict[str, dict[str, list[int]]] = {}
        divided = divide(entries, test_share=self.test_share, test_groups=self.test_groups, test_seed=self.test_seed)
        for split, part in divided.items():
            parts[split] = {}
            for entry in part:
                recording_name, place = places[entry.name]
                parts[split].setdefault(recording_name, []).append(place)
        lost = 0
        for name, train in parts.get("train", {}).items():
            stamps = self._moments[name].stamps
            others = sorted(place for split, part in parts.items() if split != "train" for place in part.get(name, []))
            if others:
                mine, theirs = stamps[train], stamps[others]
                far = np.abs(theirs[nearest(mine, theirs)] - mine) >= self.gap_s * SECOND
                parts["train"][name] = np.asarray(train)[far].tolist()
                lost += int((~far).sum())
        if not any(parts.get("train", {"": [0]}).values()):
            raise SourceError(f"gap_s {self.gap_s:g} leaves no training pairs; set a smaller one, or longer segments")
        return parts, Counter({f"lie less than {self.gap_s:g} s from a pair of another split": lost})

    def _stated(self, name: str, modality: Modality) -> Modality:
        """A member with the unit that its stream states, where the config does not."""
        if not isinstance(modality, Depth) or "scale_m" in self.members[name]:
            return modality
        origin = next(origin for origin in self._origins if origin.member == name)
        stated = {find_stream(each, origin.stream, f"members.{name}.stream").stated.get("scale_m")
                  for each in self._recordings}  # fmt: skip
        if len(stated) == 1 and (scale := stated.pop()) is not None:
            return type(modality)(scale_m=float(str(scale)), invalid=modality.invalid)
        recording = self._recordings[0]
        frame = next(recording.frames({origin.stream: np.asarray([0])}))
        readings = readings_of(as_numbers(frame), modality.invalid)
        raise SourceError(unit_of_depth(readings, f"{origin.on(recording)}, frame 0", f"members.{name}.scale_m"))
