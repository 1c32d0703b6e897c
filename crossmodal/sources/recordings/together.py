"""The frames of a recording's moments, put together while the recording is read once."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int64

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.plan import Moments, Origin
from crossmodal.sources.recordings.stream import Frame, Recording

HELD_BYTES = 2 << 30  # most of frames that wait for their partners


def together(recording: Recording, origins: list[Origin], moments: Moments) -> Iterator[Mapping[str, Frame]]:
    """The frames of each moment by member, as soon as all of them are read."""
    wanted: dict[str, Int64[np.ndarray, " some"]] = {}
    for origin in origins:
        numbers = moments.numbers[origin.member]
        wanted[origin.stream] = np.unique(np.concatenate([wanted.get(origin.stream, numbers[:0]), numbers]))
    keys = [
        {origin.member: (origin.stream, int(moments.numbers[origin.member][place])) for origin in origins}
        for place in range(len(moments.stamps))
    ]
    waiting: dict[tuple[str, int], Frame] = {}
    held = done = 0
    for frame in recording.frames(wanted):
        waiting[frame.stream, frame.number] = frame
        held += _size(frame)
        if held > HELD_BYTES:
            raise SourceError(
                f"{recording.name}: frames that go together lie more than {HELD_BYTES >> 30} GB apart in the "
                "file; write it again in the order of time, or use fewer members"
            )
        while done < len(keys) and all(key in waiting for key in keys[done].values()):
            yield {member: waiting[key] for member, key in keys[done].items()}
            for key in set(keys[done].values()):
                held -= _size(waiting.pop(key))
            done += 1
    if done < len(keys):
        missing = next(
            f"{stream!r} {number}" for stream, number in keys[done].values() if (stream, number) not in waiting
        )
        raise SourceError(f"{recording.name}: frame {missing} is listed but was not read; is the file cut short?")


def _size(frame: Frame) -> int:
    return frame.content.nbytes if isinstance(frame.content, np.ndarray) else len(frame.content)
