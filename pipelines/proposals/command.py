"""`crossmodal init`: its arguments, what it prints, and the files that it writes."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.config import ConfigError
from pipelines.config.errors import printable

if TYPE_CHECKING:
    from pipelines.proposals.streams import Proposal


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises what `main` prints."""
        raise ConfigError([f"init: {message}; see crossmodal init --help"])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="crossmodal init",
        description="Looks at a recording or a folder of paired files, and writes the configs of a first transfer.",
        epilog="It writes NAME.yaml for crossmodal shards, NAME_transfer.yaml for crossmodal transfer, and "
        "NAME_sheet.png with some pairs. It asks nothing and guesses no unit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "path", metavar="PATH", help="a bag (.bag, .mcap, .db3), a video, a LeRobot data set, or a folder of files"
    )
    parser.add_argument("--yes", action="store_true", help="replace files that are already there")
    parser.add_argument("--to", metavar="FOLDER", default=".", help="folder to write to (default: this one)")
    parser.add_argument("--name", metavar="NAME", help="first part of the files' names (default: that of PATH)")
    parser.add_argument(
        "--stream", metavar="MEMBER=NAME", action="append", default=[], help="use this stream: rgb=/camera/image_raw"
    )
    parser.add_argument("--scale-m", metavar="M", type=float, help="metres that a stored 1 of depth means")
    return parser


def init(words: Sequence[str]) -> int:
    """Proposes the configs of what the words name; gives the exit code.

    Raises:
        ConfigError: the words are wrong, or a file is there already.
        SourceError: the recording cannot be read, or has no pair of sensors.
    """
    parser = _parser()
    if {"-h", "--help"} & {*words}:
        print(printable(parser.format_help()), end="")
        return 0
    asked = parser.parse_args(words)
    path, to = Path(asked.path), Path(asked.to)
    chosen = dict(_member(text) for text in asked.stream)

    from crossmodal.sources.recordings.opening import find_recordings
    from crossmodal.sources.recordings.stream import safe_name
    from pipelines.proposals.texts import folder_texts, recording_texts

    if not path.exists():
        raise ConfigError([f"init: there is no file or folder {path.absolute()}"])
    name = asked.name or safe_name(path.absolute().stem if path.is_file() else path.absolute().name)
    files = {kind: to / f"{name}{end}" for kind, end in
             (("shards", ".yaml"), ("transfer", "_transfer.yaml"), ("sheet", "_sheet.png"))}  # fmt: skip
    there = [str(file) for file in files.values() if file.exists()]
    if there and not asked.yes:
        raise ConfigError([f"init: {', '.join(there)} would be replaced; add --yes, or choose another --name"])
    if recordings := find_recordings(path):
        from pipelines.proposals.streams import propose

        proposal = propose(recordings, chosen)
        if asked.scale_m is not None and "depth" in proposal.chosen:
            proposal.scale_m = asked.scale_m
        _describe(path, proposal)
        texts = recording_texts(path, name, proposal)
    else:
        if chosen:
            raise ConfigError([f"init: {path} is no recording, so --stream does not apply"])
        texts = folder_texts(path, name, asked.scale_m)
        _say(texts.report)
    to.mkdir(parents=True, exist_ok=True)
    for kind in ("shards", "transfer"):
        files[kind].write_text(getattr(texts, kind), encoding="utf-8")
    drawn = _sheet(texts.source, texts.step, files["sheet"])
    if drawn:
        _say([drawn])
    _say(["", f"Written: {files['shards']}, {files['transfer']}" + ("" if drawn else f", {files['sheet']}")])
    if texts.unit_missing:
        _say([f"Next: set scale_m in {files['shards']}, then", f"  crossmodal shards {files['shards']}"])
    else:
        _say(["Next:", f"  crossmodal shards {files['shards']}"])
    _say([f"  crossmodal transfer {files['transfer']}"])
    return 0


def _member(text: str) -> tuple[str, str]:
    member, equals, stream = text.partition("=")
    if not equals or not stream:
        raise ConfigError([f"init: --stream must be MEMBER=NAME, such as rgb=/camera/image_raw, got {text}"])
    return member, stream


def _describe(path: Path, proposal: "Proposal") -> None:
    """Prints what the recording holds, and what was measured."""
    from pipelines.proposals.texts import evidence

    first = proposal.recordings[0]
    more = f"; the first of {len(proposal.recordings)} recordings" if proposal.recordings[1:] else ""
    _say([f"{path}: {first.name}, {proposal.seconds:.1f} s{more}"])
    rows = [("stream", "kind", "encoding", "size", "frames", "rate", "states")]
    for name, stream in proposal.streams.items():
        timing = proposal.timing.get(name)
        rate = stream.rate_hz or (timing.rate_hz if timing else 0.0)
        rows.append((
            name, stream.kind, stream.encoding, f"{stream.width}x{stream.height}" if stream.width else "",
            str(stream.frames), f"{rate:.4g} Hz" if rate else "",
            stream.source or ", ".join(f"{key} {value}" for key, value in stream.stated.items()),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    _say(
        ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    )
    lines = ["", "Pair: " + " and ".join(f"{member} from {stream.name}" for member, stream in proposal.chosen.items())]
    if (moments := proposal.moments) is not None:
        import numpy as np

        differences = np.concatenate([*moments.difference_ns.values()]) / 1e6
        lines.append(f"  {len(moments.stamps)} of {moments.frames} frames go together within {proposal.slop_ms:g} ms; "
                     f"stamps differ by {np.median(np.abs(differences)):.1f} ms in the median, "
                     f"{np.abs(differences).max():.1f} ms at most")  # fmt: skip
        lines += [f"  {count} frames {reason}" for reason, count in moments.left_out.items()]
    lines += _clock(proposal)
    lines += {
        "same camera": ["  The recording says that both are seen by one camera, so they are registered"],
        "register": ["  Depth is registered into the colour camera by the recording's calibration"],
        "unknown": ["  The recording does not say whether the pictures are registered; look at the edges on the sheet"],
        "apart": ["  The two do not show the same picture, so objectives of whole pictures are proposed"],
    }[proposal.registered]
    if proposal.readings is not None:
        lines += evidence(proposal.readings, proposal.chosen)
    lines += [f"Odd: {line}" for line in proposal.odd]
    _say(lines)


def _clock(proposal: "Proposal") -> list[str]:
    clock = proposal.clock
    if clock is None:
        return (
            [] if "audio" in proposal.chosen else ["  Clocks: the two show no common motion, so no offset was measured"]
        )
    second = [*proposal.chosen][1]
    way = f"{second} is {abs(clock.offset_ms):.1f} ms {'ahead' if clock.offset_ms > 0 else 'behind'}"
    drift = f", drifting by {clock.drift_ppm:.0f} ppm" if clock.drift_ppm else ""
    if clock.pieces < 4:
        return [f"  Clocks: by motion {way}, from {clock.pieces} pieces, too few for an interval; not corrected"]
    interval = f"95 % interval {clock.low_ms:.1f} to {clock.high_ms:.1f} ms, {clock.pieces} pieces"
    return [f"  Clocks: by motion {way}{drift} ({interval}); {'corrected' if proposal.corrects else 'not corrected'}"]


def _sheet(source: Mapping[str, Any], step: int, path: Path) -> str:
    """Draws every `step`-th pair; gives the reason where that fails."""
    from crossmodal import SOURCES
    from crossmodal.data.writer import write_shards
    from pipelines.proposals.texts import FEW
    from pipelines.reporting.sheet import draw_sheet

    options = {name: value for name, value in source.items() if name != "name"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            opened = SOURCES.get(source["name"])(**options)
            pairs = islice(opened.pairs(opened.splits()[0]), 0, FEW * step, step)
            write_shards(pairs, Path(folder) / "some", fields=opened.fields(), classes=opened.classes(),
                         pairs_per_shard=1000)  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw_sheet(Path(folder) / "some", {}).read_bytes())
    except ValueError as error:
        return f"The sheet could not be drawn: {error}"
    return ""


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(printable(line), flush=True)
