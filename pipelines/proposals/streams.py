"""The proposal for a recording: which streams form a pair, and how they go together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.clocks import ClockOffset
from crossmodal.sources.recordings.plan import SECOND, Moments, Origin, match
from crossmodal.sources.recordings.stream import Camera, Recording, Stream
from crossmodal.sources.recordings.survey import Readings, Timing, clock_offset
from modalities.common.catalogue import suggest

MODALITIES = {"rgb": "rgb", "grey": "rgb", "depth": "depth", "thermal": "thermal", "audio": "audio"}  # by kind
NAMES = [*dict.fromkeys(MODALITIES.values())]
PARTNERS = ("depth", "thermal", "audio")  # what a picture teaches, the first that there is
NEGLIGIBLE_MS = 5.0  # an offset below it is not corrected
MANY = 2000  # pairs, at most about so many are proposed
SLOWEST_S = 0.5  # from one pair to the next, in a long recording
SOUND_S = 2.0
LOOKED_AT = 100  # recordings in which a pair is looked for
ENOUGH = 8  # recordings or segments that pairs for testing are drawn from


@dataclass
class Proposal:
    """The pair that is proposed, and what was measured about it."""

    recordings: list[Recording]
    streams: dict[str, Stream]  # of the first recording
    timing: dict[str, Timing]  # of its streams with frames
    chosen: dict[str, Stream]  # member -> stream, the teacher's first
    clock: ClockOffset | None = None
    moments: Moments | None = None  # of the first recording
    readings: Readings | None = None  # of depth or temperature
    registered: str = "unknown"  # same camera | register | unknown | apart
    odd: list[str] = field(default_factory=list)
    refused: str = ""  # why `shards` refuses what is proposed, until the user mends it
    pose: str | None = None
    scale_m: float | None = None  # of depth, where the user gives it
    slop_ms: float = 20.0
    apart_ms: float = 0.0  # from the begin of the first member to that of the second, where they do not overlap

    @property
    def seconds(self) -> float:
        """The length of the first recording, seconds."""
        return self.timing[next(iter(self.chosen.values())).name].seconds

    @property
    def period_s(self) -> float:
        """The usual time between two frames of the first member, seconds; infinite if there is one."""
        rate = self.timing[next(iter(self.chosen.values())).name].rate_hz
        return 1 / rate if rate else float("inf")

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        """The members of the source."""
        members: dict[str, dict[str, Any]] = {}
        for name, stream in self.chosen.items():
            members[name] = {"modality": MODALITIES[stream.kind], "stream": stream.name, **stream.stated}
            if name == "depth" and self.scale_m is not None:
                members[name]["scale_m"] = self.scale_m
            if stream.kind == "audio":
                members[name]["seconds"] = SOUND_S
        if self.corrects and self.clock is not None:
            begin = self.timing[next(iter(self.chosen.values())).name].begin_ns
            at_begin = self.clock.offset_ms + (begin - self.clock.origin_ns) * self.clock.drift_ppm * 1e-12
            partner = members[[*members][1]]
            partner["offset_ms"] = round(at_begin, 1)
            if self.clock.drift_ppm:
                partner["drift_ppm"] = round(self.clock.drift_ppm, 1)
        return members

    @property
    def corrects(self) -> bool:
        """True if the clocks differ by more than chance and more than matters."""
        clock = self.clock
        return clock is not None and abs(clock.offset_ms) >= NEGLIGIBLE_MS and not clock.low_ms <= 0 <= clock.high_ms

    @property
    def options(self) -> dict[str, Any]:
        """The options of the source beside root and members."""
        options: dict[str, Any] = {"slop_ms": self.slop_ms}
        if self.registered == "register":
            options["register"] = {"depth": next(iter(self.chosen))}
        every = min(SLOWEST_S, self.recorded_s * len(self.recordings) / MANY)
        if every > self.period_s:
            options["every_s"] = round(every, 3)
        if len(self.recordings) >= ENOUGH:
            return options | {"test_share": 0.2}
        if not self.divisible:
            return options
        segment = max(min(1.0, self.seconds / ENOUGH), self.seconds / 20)
        options["segment_s"] = round(segment, 2 if segment < 1 else 1)
        options["gap_s"] = round(min(1.0, segment / 4), 2)
        return options | {"test_share": 0.2}

    @property
    def frames(self) -> int:
        """The frames of the first member in the first recording."""
        return next(iter(self.chosen.values())).frames

    @property
    def clock_note(self) -> str:
        """A comment of the config on the second member's clock; empty if there is none."""
        clock = self.clock
        if self.apart_ms and self.moments is None:
            return f"if both recorded together, add offset_ms, about {self.apart_ms:.0f}"
        if clock is None:
            return ""
        if self.corrects:
            return f"measured by motion: {clock.low_ms:.1f} to {clock.high_ms:.1f} ms"
        return f"perhaps offset_ms: {clock.offset_ms:.1f}, see the sheet" if self.suspicious else ""

    @property
    def suspicious(self) -> bool:
        """True if an offset of more than half a frame was measured that is not certain enough to be corrected."""
        return self.clock is not None and not self.corrects and abs(self.clock.offset_ms) > self.slop_ms

    @property
    def divisible(self) -> bool:
        """True if there are frames enough to hold some out."""
        return len(self.recordings) >= ENOUGH or self.recorded_s > 3 * ENOUGH * self.period_s

    @property
    def recorded_s(self) -> float:
        """The seconds in which the first recording has frames: its length less its gaps."""
        return min(self.seconds, self.period_s * self.frames)


def timing_of(recording: Recording) -> dict[str, Timing]:
    """When each stream that is not empty has frames."""
    there = [name for name, stream in recording.streams().items() if stream.frames]
    return {name: Timing.of(stamps) for name in there if len(stamps := recording.stamps(name))}


def with_pair_first(recordings: list[Recording]) -> list[Recording]:
    """The recordings; the first of them that has pictures and a second sensor comes first."""
    for place, recording in enumerate(recordings[:LOOKED_AT]):
        kinds = {stream.kind for stream in recording.streams().values() if stream.frames}
        if kinds & {"rgb", "grey"} and kinds & {*PARTNERS}:
            return [recording, *recordings[:place], *recordings[place + 1 :]]
    return recordings


def propose(recordings: list[Recording], timing: dict[str, Timing], chosen: Mapping[str, str]) -> Proposal:
    """The pair of a recording, with measurements of the first one.

    Args:
        recordings: with equal streams.
        timing: of the first recording.
        chosen: names of streams by member, instead of what would be proposed.

    Raises:
        SourceError: no pair can be formed.
    """
    first = recordings[0]
    streams = first.streams()
    proposal = Proposal(recordings, streams, timing, _choose(first, streams, timing, chosen))
    proposal.pose = next((name for name in timing if streams[name].kind == "pose"), None)
    teacher, partner = proposal.chosen.values()
    proposal.odd, proposal.refused = _odd(timing, proposal.chosen), _unequal(recordings, proposal.chosen)
    if partner.kind == "audio":
        proposal.registered = "apart"
        return proposal
    rates = [timing[stream.name].rate_hz for stream in (teacher, partner)]
    if min(rates) > 0:
        proposal.slop_ms = float(max(5, math.ceil(500 / min(rates))))  # half the distance of two frames
    proposal.apart_ms = _apart_ms(timing[teacher.name], timing[partner.name])
    if not any(timing[stream.name].back for stream in (teacher, partner)):
        proposal.clock = clock_offset(first, teacher.name, partner.name)
    mine, other = proposal.chosen
    corrected = {key: proposal.members[other].get(key, 0.0) for key in ("offset_ms", "drift_ppm")}
    origins = [Origin(mine, teacher.name), Origin(other, partner.name, **corrected)]
    try:
        proposal.moments = match(first, origins[0], origins[1:], proposal.slop_ms)
    except SourceError as error:
        proposal.refused = str(error)
    if proposal.apart_ms and proposal.moments is None:
        way = f"{abs(proposal.apart_ms) / 1000:.3f} s {'after' if proposal.apart_ms > 0 else 'before'}"
        proposal.refused = (
            f"{other} begins {way} {mine}, so the two do not overlap; if they recorded together, their clocks differ: "
            f"set offset_ms of {other}, about {proposal.apart_ms:.0f}"
        )
    if partner.kind in ("depth", "thermal"):
        proposal.readings = Readings.of(first, partner.name)
    proposal.registered = _registered(first, teacher, partner)
    return proposal


def _choose(
    recording: Recording, streams: Mapping[str, Stream], timing: Mapping[str, Timing], chosen: Mapping[str, str]
) -> dict[str, Stream]:
    def best(*kinds: str) -> Stream | None:
        given = next((chosen[MODALITIES[kind]] for kind in kinds if MODALITIES[kind] in chosen), None)
        if given is not None:
            return streams[given]
        there = [streams[name] for name in timing if streams[name].kind in kinds]
        return max(there, key=lambda stream: (stream.frames, stream.height * stream.width), default=None)

    for member, name in chosen.items():
        if member not in MODALITIES.values():
            raise SourceError(f"--stream {member}={name}: member {member!r} is not known{suggest(member, NAMES)}")
        if name in timing and MODALITIES.get(streams[name].kind) != member:
            raise SourceError(f"--stream {member}={name}: this stream's kind is {streams[name].kind}, not {member}")
        if name not in timing:
            raise SourceError(
                f"recording {recording.name!r} has no frames in a stream {name!r}; it has {', '.join(timing)}"
            )
    teacher = best("rgb") or best("grey")
    if teacher is None:
        raise SourceError(
            f"recording {recording.name!r} has no stream of pictures that a teacher could see; it has "
            + ", ".join(f"{stream.name} ({stream.kind}, {stream.encoding})" for stream in streams.values())
        )
    depths = [streams[name] for name in timing if streams[name].kind == "depth"]
    aligned = [stream for stream in depths if _registered(recording, teacher, stream) == "same camera"]
    partner = aligned[0] if aligned and "depth" not in chosen else None
    for kind in PARTNERS if partner is None else ():
        if not chosen or MODALITIES[kind] in chosen or not {*chosen} - {"rgb"}:
            partner = partner or best(kind)
    if partner is None:
        raise SourceError(
            f"recording {recording.name!r} has no second sensor, depth, thermal or sound, that could learn from "
            f"{teacher.name!r}; for one sensor alone there is crossmodal pretrain"
        )
    return {MODALITIES[teacher.kind]: teacher, MODALITIES[partner.kind]: partner}


def _camera(recording: Recording, stream: Stream) -> Camera | None:
    try:
        return recording.camera(stream.name)
    except SourceError:  # a lens of a kind that is not known
        return None


def _registered(recording: Recording, teacher: Stream, partner: Stream) -> str:
    transform = recording.transform(partner.name, teacher.name)
    mine, theirs = _camera(recording, teacher), _camera(recording, partner)
    sizes = [camera and (camera.width, camera.height) for camera in (mine, theirs)]
    fit = sizes == [(stream.width, stream.height) for stream in (teacher, partner)]  # a calibration of its pictures
    if transform is not None and np.allclose(transform, np.eye(4), atol=1e-6):
        same = mine is None or theirs is None or np.allclose(mine.matrix, theirs.matrix, rtol=0.02)
        if same and (teacher.height, teacher.width) == (partner.height, partner.width):
            return "same camera"
    if transform is not None and fit and partner.kind == "depth":
        return "register"
    equal = (
        abs(teacher.height * partner.width - teacher.width * partner.height) <= 0.02 * teacher.height * partner.width
    )
    return "unknown" if equal else "apart"


def _odd(timing: Mapping[str, Timing], chosen: Mapping[str, Stream]) -> list[str]:
    odd = []
    for stream in chosen.values():
        found = timing[stream.name]
        if found.gaps and stream.kind != "audio":
            count = f"{found.gaps} gaps" if found.gaps > 1 else "one gap"
            longest = f"{', the longest' if found.gaps > 1 else ':'} {found.longest_gap_s:.2f} s"
            odd.append(f"{stream.name}: {count} of more than three frames{longest}")
        if stream.frames > 1 and found.begin_ns == found.end_ns:
            odd.append(f"{stream.name}: all {stream.frames} stamps are equal, so its frames cannot be told apart")
    begins, ends = zip(
        *((timing[each.name].begin_ns, timing[each.name].end_ns) for each in chosen.values()), strict=True
    )
    lone = (max(begins) - min(begins) + max(ends) - min(ends)) / SECOND
    if lone > 2 and max(begins) <= min(ends):
        odd.append(f"only one of the two sensors recorded for {lone:.1f} s")
    return odd


def _apart_ms(first: Timing, second: Timing) -> float:
    overlap = min(first.end_ns, second.end_ns) >= max(first.begin_ns, second.begin_ns)
    return 0.0 if overlap else (second.begin_ns - first.begin_ns) / 1e6


def _unequal(recordings: list[Recording], chosen: Mapping[str, Stream]) -> str:
    wanted = {stream.name for stream in chosen.values()}
    lacking = [each.name for each in recordings[1:] if not wanted <= each.streams().keys()]
    if not lacking:
        return ""
    named = ", ".join(lacking[:3]) + (", ..." if lacking[3:] else "")
    verb = "lack" if lacking[1:] else "lacks"
    return f"{len(lacking)} of {len(recordings)} recordings {verb} one of these streams: {named}; put them elsewhere"
