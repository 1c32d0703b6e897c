"""`crossmodal init`: its arguments, what it prints, and the files that it writes."""

import os
import shlex
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import ConfigError
from pipelines.config.arguments import Parser
from pipelines.config.errors import printable

if TYPE_CHECKING:
    from crossmodal.sources.recordings.stream import Recording
    from crossmodal.sources.recordings.survey import Timing
    from pipelines.proposals.streams import Proposal
    from pipelines.proposals.texts import Texts
    from pipelines.schemas.common import ViewConfig


SHORT_S = 4.0  # a recording of less does not show enough motion


def _parser() -> Parser:
    parser = Parser(
        "init",
        description="Looks at a recording or a folder of paired files, and writes the configs of a first transfer.",
        epilog="It writes NAME.yaml for crossmodal shards, NAME_transfer.yaml for crossmodal transfer, and "
        "NAME_sheet.png with some pairs. It asks nothing and guesses no unit.",
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
    asked = _parser().read(words)
    if asked is None:
        return 0
    path, to = Path(asked.path), Path(asked.to)
    if asked.scale_m is not None and not 0 < asked.scale_m < float("inf"):
        raise ConfigError([f"init: --scale-m must be above 0 and finite, got {asked.scale_m:g}"])
    chosen = dict(_member(text) for text in asked.stream)

    from crossmodal.sources.recordings.opening import find_recordings
    from pipelines.proposals.texts import folder_texts, recording_texts

    if not path.exists():
        raise ConfigError([f"init: there is no file or folder {path.absolute()}"])
    name, files = _files(path, to, asked.name, replace=asked.yes)
    recordings = find_recordings(path)
    if recordings and (aside := _videos_beside_pairs(path, len(recordings))):
        recordings = []
        _say([f"{path}: its files of equal names are taken; left out: {', '.join(aside)}"])
    if recordings:
        from pipelines.proposals.streams import propose, timing_of, with_pair_first

        recordings = with_pair_first(recordings)
        timing = timing_of(recordings[0])
        _list_streams(path, recordings, timing)
        proposal = propose(recordings, timing, chosen)
        if asked.scale_m is not None and "depth" not in proposal.chosen:
            raise ConfigError(["init: --scale-m is the unit of depth, but no depth is proposed; take it out"])
        if asked.scale_m is not None:
            proposal.scale_m = asked.scale_m
        _describe(proposal)
        texts = recording_texts(path, to / name, proposal)
    else:
        if chosen:
            raise ConfigError([f"init: {path} is no recording, so --stream does not apply"])
        texts = folder_texts(path, to / name, asked.scale_m)
        _say(texts.report)
    for kind in ("shards", "transfer"):
        files[kind].write_text(getattr(texts, kind), encoding="utf-8")
    drawn = not texts.refused
    if drawn and (failed := _sheet(texts, files["sheet"])):
        drawn = False
        _say([failed])
    _say(["", f"Written: {files['shards']}, {files['transfer']}" + (f", {files['sheet']}" if drawn else "")])
    _say(_next(texts, words, files))
    return 0


def _videos_beside_pairs(path: Path, recordings: int) -> list[str]:
    """The names of the videos in a folder whose other files are pairs, if it holds no other recording."""
    from crossmodal.sources.recordings.videos import is_video
    from pipelines.proposals.folders import choose, find_files

    videos = [file.name for file in sorted(path.iterdir()) if is_video(file)] if path.is_dir() else []
    return videos if len(videos) == recordings and choose(find_files(path)) else []


def _files(path: Path, to: Path, given: str | None, *, replace: bool) -> tuple[str, dict[str, Path]]:
    """The first part of the names of the files to write, and their paths, in a folder that is there."""
    from crossmodal.sources.recordings.stream import safe_name

    name = given or safe_name(path.absolute().stem if path.is_file() else path.absolute().name)
    if safe_name(name) != name.replace(".", "_"):
        raise ConfigError([f"init: --name must have letters, digits, '_', '-' and '.' only, got {name!r}"])
    files = {kind: to / f"{name}{end}" for kind, end in
             (("shards", ".yaml"), ("transfer", "_transfer.yaml"), ("sheet", "_sheet.png"))}  # fmt: skip
    there = [str(file) for file in files.values() if file.exists()]
    if there and not replace:
        raise ConfigError([f"init: {', '.join(there)} would be replaced; add --yes, or choose another --name"])
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"init: folder {to} cannot be made: {error.strerror}; choose another by --to"]) from error
    if not os.access(to, os.W_OK):
        raise ConfigError([f"init: folder {to.absolute()} cannot be written to; choose another by --to"])
    return name, files


def _next(texts: "Texts", words: Sequence[str], files: Mapping[str, Path]) -> list[str]:
    """The commands that come next."""
    shards, transfer = (shlex.quote(str(files[kind])) for kind in ("shards", "transfer"))
    commands = [f"  crossmodal shards {shards}", f"  crossmodal transfer {transfer}"]
    if texts.unit_missing:
        again = shlex.join(["crossmodal", "init", *(word for word in words if word != "--yes")])
        return [f"Next: say what a stored 1 of depth means, by {again} --yes --scale-m METRES",
                f"(or by scale_m in {shards}, and min_m and max_m in {transfer}), then", *commands]  # fmt: skip
    return ["Next: mend what is refused above, then" if texts.refused else "Next:", *commands]


def _member(text: str) -> tuple[str, str]:
    member, equals, stream = text.partition("=")
    if not equals or not stream:
        raise ConfigError([f"init: --stream must be MEMBER=NAME, such as rgb=/camera/image_raw, got {text}"])
    return member, stream


def _list_streams(path: Path, recordings: "list[Recording]", timing: "Mapping[str, Timing]") -> None:
    first = recordings[0]
    more = f"; one of {len(recordings)} recordings" if recordings[1:] else ""
    more += f"; {first.absent} more are listed, but their files are missing" if first.absent else ""
    _say([f"{path}: {first.name}{more}"])
    rows = [("stream", "kind", "encoding", "size", "frames", "rate", "seconds", "states")]
    for name, stream in first.streams().items():
        times = timing.get(name)
        rate = stream.rate_hz or (times.rate_hz if times else 0.0)
        often = f"{round(rate, 2 if rate < 1000 else 0):.10g} Hz" if rate else ""
        rows.append((
            name, stream.kind, stream.encoding, f"{stream.width}x{stream.height}" if stream.width else "",
            str(stream.frames), often, f"{times.seconds:.1f}" if times else "",
            stream.source or ", ".join(f"{key} {value}" for key, value in stream.stated.items()),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say(["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()])


def _describe(proposal: "Proposal") -> None:
    """Prints the pair, and what was measured about it."""
    from pipelines.proposals.texts import evidence

    lines = ["", "Pair: " + " and ".join(f"{member} from {stream.name}" for member, stream in proposal.chosen.items())]
    if (moments := proposal.moments) is not None:
        import numpy as np

        differences = np.concatenate([*moments.difference_ns.values()]) / 1e6
        lines.append(f"  {len(moments.stamps)} of {moments.frames} frames go together within {proposal.slop_ms:g} ms; "
                     f"stamps differ by {np.median(np.abs(differences)):.1f} ms in the median, "
                     f"{np.abs(differences).max():.1f} ms at most")  # fmt: skip
        lines += [f"  {count} frames {reason}" for reason, count in moments.left_out.items()]
    lines += _clock(proposal)
    if "audio" not in proposal.chosen:
        lines += {
            "same camera": ["  The recording says that both are seen by one camera, so they are registered"],
            "register": ["  Depth is registered into the colour camera by the recording's calibration"],
            "unknown": [
                "  The recording does not say whether the pictures are registered; look at the edges on the sheet"
            ],
            "apart": [
                "  The two are not pictures of one camera, and there is no calibration to register them by, so",
                "  objectives of whole pictures are proposed",
            ],
        }[proposal.registered]
    if proposal.readings is not None:
        lines += evidence(proposal.readings, proposal.members)
    lines += [f"Odd: {line}" for line in proposal.odd]
    lines += textwrap.wrap(f"Refused by shards: {proposal.refused}", 120) if proposal.refused else []
    _say(lines)


def _clock(proposal: "Proposal") -> list[str]:
    clock = proposal.clock
    if clock is None:
        if "audio" in proposal.chosen or proposal.moments is None:
            return []
        reason = "the two show no common motion" if proposal.seconds > SHORT_S else "the recording is too short"
        return [f"  Clocks: {reason}, so no offset was measured"]
    second = [*proposal.chosen][1]
    way = f"{second} is {abs(clock.offset_ms):.1f} ms {'ahead' if clock.offset_ms > 0 else 'behind'}"
    drift = f", drifting by {clock.drift_ppm:.0f} ppm" if clock.drift_ppm else ""
    if clock.pieces < 4:
        lines = [f"  Clocks: by motion {way}, from {clock.pieces} pieces, too few for an interval; not corrected"]
        if proposal.suspicious:
            lines.append(
                f"    It is more than half a frame: if moving edges on the sheet do not fit, set offset_ms of {second}"
            )
        return lines
    interval = f"95 % interval {clock.low_ms:.1f} to {clock.high_ms:.1f} ms, {clock.pieces} pieces"
    return [f"  Clocks: by motion {way}{drift} ({interval}); {'corrected' if proposal.corrects else 'not corrected'}"]


def _sheet(texts: "Texts", path: Path) -> str:
    """Draws some pairs; gives the reason where that fails."""
    from crossmodal import SOURCES
    from crossmodal.data.writer import write_shards
    from pipelines.proposals.texts import FEW
    from pipelines.reporting.sheet import draw_sheet

    source, step = texts.source, texts.step
    options = {name: value for name, value in source.items() if name != "name"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            opened = SOURCES.get(source["name"])(**options)
            pairs = islice(opened.pairs(opened.splits()[0]), 0, FEW * step, step)
            write_shards(pairs, Path(folder) / "some", fields=opened.fields(), classes=opened.classes(),
                         pairs_per_shard=1000)  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw_sheet(Path(folder) / "some", _views(texts), aligned=texts.aligned).read_bytes())
    except ValueError as error:
        return f"The sheet could not be drawn: {error}"
    return ""


def _views(texts: "Texts") -> "dict[str, ViewConfig]":
    """The views of the transfer; none, so that stored fields are drawn, where a unit is missing."""
    import yaml

    from pipelines.config import load
    from pipelines.schemas.transfer import Config

    return {} if texts.unit_missing else load(Config, yaml.safe_load(texts.transfer), []).views


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(printable(line), flush=True)
