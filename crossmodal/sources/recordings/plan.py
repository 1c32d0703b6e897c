"""The plan of a recording's pairs: which frames go together, made from stamps alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int64

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.association import associate, backward_steps, correct, moved, thin
from crossmodal.sources.recordings.stream import Recording, Stream
from modalities.common.catalogue import suggest

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Origin:
    """The stream of a member's frames, and the correction of its clock."""

    member: str
    stream: str
    offset_ms: float = 0.0
    drift_ppm: float = 0.0
    seconds: float = 0.0  # of sound around a pair; 0: it is no sound

    def on(self, recording: Recording) -> str:
        """The member, for messages."""
        return f"members.{self.member}: stream {self.stream!r} of {recording.name}"


@dataclass(frozen=True)
class Moments:
    """Moments of a recording at which every member has a frame, in the order of time."""

    stamps: Int64[np.ndarray, " moments"]  # on the clock of the reference, nanoseconds
    numbers: dict[str, Int64[np.ndarray, " moments"]]  # member -> number of its frame; of sound: when it begins
    difference_ns: dict[str, Int64[np.ndarray, " moments"]]  # member -> corrected stamp less that of the reference
    frames: int  # of the reference
    left_out: Counter[str] = field(default_factory=Counter)  # frames of the reference, by reason

    def take(self, places: Int64[np.ndarray, " some"], reason: str | None = None) -> "Moments":
        """Some of the moments; the others count as left out, if a reason is given."""
        numbers = {name: values[places] for name, values in self.numbers.items()}
        difference = {name: values[places] for name, values in self.difference_ns.items()}
        lost = Counter({reason: len(self.stamps) - len(places)} if reason else {})
        return Moments(self.stamps[places], numbers, difference, self.frames, self.left_out + lost)


def find_stream(recording: Recording, name: str, option: str) -> Stream:
    """A stream of a recording.

    Raises:
        SourceError: there is none of this name, or it is one that cannot be packed.
    """
    streams = recording.streams()
    if name not in streams:
        raise SourceError(f"{option}: {recording.name} has no stream {name!r}{suggest(name, list(streams))}")
    if (stream := streams[name]).kind == "other":
        raise SourceError(f"{option}: stream {name!r} of {recording.name} ({stream.encoding}) cannot be packed"
                          + (f": {stream.source}" if stream.source else ""))  # fmt: skip
    return stream


def match(recording: Recording, reference: Origin, others: Sequence[Origin], slop_ms: float) -> Moments:
    """The moments at which all members have a frame.

    Each frame of the reference takes the nearest frame of every other member, at most `slop_ms` away; see `associate`.
    Sound needs no frame: its piece has the moment in its middle.

    Args:
        recording: with a stream for every member.
        reference: the member whose stamps the others are compared with.
        others: the other members.
        slop_ms: greatest difference of two frames that go together.

    Raises:
        SourceError: a stream is not there, is empty, or runs backwards; or no frames go together.
    """
    mine = _stamps(recording, reference)
    moments = Moments(mine, {reference.member: np.arange(len(mine))}, {}, len(mine))
    for origin in others:
        theirs = correct(
            _stamps(recording, origin),
            offset_ms=origin.offset_ms,
            drift_ppm=origin.drift_ppm,
            origin_ns=int(mine[0]),
        )
        try:
            moments = (_with_sound if origin.seconds else _with_frames)(moments, origin, theirs, slop_ms)
        except SourceError as error:
            last = (mine[-1] - mine[0]) / SECOND
            raise SourceError(
                f"{origin.on(recording)} lasts from {(theirs[0] - mine[0]) / SECOND:.3f} to "
                f"{(theirs[-1] - mine[0]) / SECOND:.3f} s, and {reference.member} from 0 to {last:.3f} s: {error}"
            ) from None
    return moments


def _stamps(recording: Recording, origin: Origin) -> Int64[np.ndarray, " frames"]:
    stream = find_stream(recording, origin.stream, f"members.{origin.member}.stream")
    if (stream.kind == "audio") != (origin.seconds > 0):
        advice = "sound; set seconds, the length of a piece" if stream.kind == "audio" else "no sound; remove seconds"
        raise SourceError(f"{origin.on(recording)} is {advice}")
    stamps = recording.stamps(origin.stream)
    if not len(stamps):
        raise SourceError(f"{origin.on(recording)} has no frames; choose another, or leave the recording out")
    if len(steps := backward_steps(stamps)):
        back = (stamps[steps[0] - 1] - stamps[steps[0]]) / SECOND
        raise SourceError(
            f"{origin.on(recording)}: the clock jumps back by {back:.3f} s before frame {steps[0]}"
            + (f", and {len(steps) - 1} times more" if len(steps) > 1 else "")
            + ", so its frames cannot be associated; cut the recording there, or write it with one clock"
        )
    return stamps


def _with_frames(moments: Moments, origin: Origin, theirs: Int64[np.ndarray, " frames"], slop_ms: float) -> Moments:
    name, matched = origin.member, associate(moments.stamps, theirs, round(slop_ms * 1e6))
    if not len(matched.first):
        nearest = np.abs(associate(moments.stamps, theirs, 1 << 62).difference_ns).min() / 1e6
        raise SourceError(
            f"no two frames lie within slop_ms {slop_ms:g}, the nearest are {nearest:.1f} ms apart; set "
            f"members.{name}.offset_ms, by how much its clock is ahead, or a larger slop_ms"
        )
    lost = Counter({
        f"have no {name} within {slop_ms:g} ms": matched.alone,
        f"have a {name} that is nearer to another frame": matched.taken,
    })  # fmt: skip
    kept = moments.take(matched.first)
    return replace(
        kept,
        numbers=kept.numbers | {name: matched.second},
        difference_ns=kept.difference_ns | {name: matched.difference_ns},
        left_out=kept.left_out + lost,
    )


def _with_sound(moments: Moments, origin: Origin, theirs: Int64[np.ndarray, " ends"], slop_ms: float) -> Moments:
    half = round(origin.seconds * SECOND / 2)
    inside = (moments.stamps - half >= theirs[0]) & (moments.stamps + half <= theirs[-1])
    if not inside.any():
        raise SourceError(f"no frame has {origin.seconds:g} s of sound around it; set a smaller seconds")
    kept = moments.take(np.flatnonzero(inside), f"have less than {origin.seconds:g} s of {origin.member} around")
    # a piece begins on the sound's own clock
    own = 1e-6 * origin.drift_ppm * (kept.stamps - moments.stamps[0]) + 1e6 * origin.offset_ms
    begins = kept.stamps - half + np.rint(own).astype(np.int64)
    return replace(kept, numbers=kept.numbers | {origin.member: begins})


def thin_out(
    moments: Moments,
    *,
    every_s: float,
    poses: Float[np.ndarray, "moments 4 4"] | None,
    moved_m: float,
    turned_deg: float,
) -> Moments:
    """The moments that are far enough from the one before, in time and in the camera's position.

    Args:
        moments: in the order of time.
        every_s: least time between two, seconds; 0: any.
        poses: matrices [moments, 4, 4] from camera to world, or None.
        moved_m: least distance of the camera, metres; with `turned_deg`, one of both is enough; 0: any.
        turned_deg: least angle of the camera, degrees; 0: any.
    """
    places = np.arange(len(moments.stamps))
    if every_s:
        places = thin(moments.stamps, round(every_s * SECOND))
    thinned = moments.take(places, f"lie less than {every_s:g} s after the pair before")
    if poses is None or not (moved_m or turned_deg):
        return thinned
    far = moved(poses[places], moved_m, turned_deg)
    return thinned.take(far, "have a camera that hardly moved since the pair before")
