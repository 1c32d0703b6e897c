"""Pairs -> shards: checked, packed in order by any number of processes, and described by a manifest that is last."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import webdataset

from crossmodal.checkpoint import writing
from crossmodal.data.index import seal
from crossmodal.data.inspection import Inspector
from crossmodal.data.joining import Packing, join_parts, remove_marks
from crossmodal.data.manifest import MANIFEST, Manifest, ShardError
from crossmodal.sources import Pair
from modalities import Modality

DAMAGED = 5  # maximum number of unreadable members to report at once
KEY = re.compile(r"[A-Za-z0-9_-]+")
Numbered = Callable[[Callable[[int], bool]], Iterator[tuple[int, Pair]]]


def write_shards(
    pairs: Iterator[Pair],
    folder: Path,
    *,
    fields: dict[str, Modality],
    classes: tuple[str, ...],
    pairs_per_shard: int = 1000,
    partial: bool = False,
    progress: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Packs pairs into shards and writes the manifest last; equal pairs give equal bytes.

    See `write_part` and `crossmodal.data.joining.join_parts`, which several processes can share.

    Raises:
        ShardError: see there.
    """
    packing = Packing(folder, fields, classes, pairs_per_shard, partial)
    remove_marks(folder)  # of other pairs
    write_part(lambda wanted: (item for item in enumerate(pairs) if wanted(item[0])), packing, progress=progress)
    manifest = join_parts(packing, warn=warn)
    remove_marks(folder)
    return manifest


def write_part(
    numbered: Numbered,
    packing: Packing,
    *,
    part: int = 0,
    parts: int = 1,
    progress: Callable[[], None] = lambda: None,
    marks: bool = True,
) -> int:
    """Packs the pairs of some shards: those whose number leaves `part` when divided by `parts`.

    Gives the number of pairs of the whole source.

    Every member is decoded once, for its statistics and so that nothing unreadable is packed. The first `DAMAGED`
    unreadable members are reported together. A finished shard has a mark, and is not packed again. If the packing is
    `partial`, a pair may lack fields, but not all.

    Args:
        numbered: gives the wanted pairs with their numbers, such as `Source.numbered` of a split.
        packing: what is packed.
        part: number of the part, from 0.
        parts: number of parts.
        progress: called after each pair that is packed.
        marks: mark the part as complete.

    Raises:
        ShardError: a pair lacks a field, has an invalid key or one that its shard has already, or an EXIF tag that
            rotates only one picture, a member does not decode, a fact is not JSON, or the disk is full.
    """
    packing.folder.mkdir(parents=True, exist_ok=True)
    (packing.folder / MANIFEST).unlink(missing_ok=True)
    share, writer = _Share(packing, part, parts), _Writer(packing)
    try:
        for number, pair in numbered(share.wants):
            writer.add(number, pair)
            progress()
            if len(writer.damaged) >= DAMAGED:
                break
        if not writer.damaged:
            writer.finish()
    finally:
        writer.close()
    if writer.damaged:
        more = "; there may be more" if len(writer.damaged) >= DAMAGED else ""
        raise ShardError("; ".join(writer.damaged) + more)
    if not share.pairs:
        raise ShardError(f"no pairs came from the source; nothing was written to {packing.folder}")
    if marks:
        packing.end_part(part, parts, share.pairs)
    return share.pairs


class _Share:
    """The pairs that a part packs: of its shards that have no mark."""

    def __init__(self, packing: Packing, part: int, parts: int) -> None:
        self.packing, self.part, self.parts = packing, part, parts
        self.pairs = 0  # asked for so far; in the end, all pairs of the source
        self._wants = False  # those of the current shard

    def wants(self, number: int) -> bool:
        shard, place = divmod(number, self.packing.pairs_per_shard)
        if place == 0:
            self._wants = shard % self.parts == self.part and not self.packing.is_done(shard)
        self.pairs = number + 1
        return self._wants


def open_tar(path: Path) -> webdataset.TarWriter:
    """A writer of a tar in WebDataset's layout; equal members give equal bytes, and a link at `path` is replaced."""
    if path.is_symlink():
        path.unlink()  # opening it would overwrite the link's target
    return webdataset.TarWriter(str(path), encoder=False, mtime=0, user="", group="")


class _Writer:
    """The shard that is being written: an open tar, and what its mark will say."""

    def __init__(self, packing: Packing) -> None:
        self.packing, self.inspector = packing, Inspector(packing.fields, packing.partial)
        self.damaged = self.inspector.damaged
        self._keys: set[str] = set()  # of the shard
        self._last = ""  # key of the pair written last
        self._tar: webdataset.TarWriter | None = None
        self._shard = -1  # its number

    def add(self, number: int, pair: Pair) -> None:
        if not KEY.fullmatch(pair.key):
            raise ShardError(f"key {pair.key!r} must be of letters, digits, '_' and '-' (a dot starts the field name)")
        if number // self.packing.pairs_per_shard != self._shard:
            self.finish()
            self._shard = number // self.packing.pairs_per_shard
        if pair.key in self._keys:
            raise ShardError(f"key {pair.key!r} appears twice in the source; keys must be unique in a split")
        self._keys.add(pair.key)
        self.inspector.add(pair)
        if self.damaged:
            return  # no shards will be written; the remaining pairs are only checked, to report all damage at once
        facts = {"label": pair.label, "group": pair.group, **pair.facts}
        try:
            text = json.dumps(facts, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ShardError(f"pair {pair.key!r}: its facts must be JSON with finite numbers: {error}") from error
        members = {**pair.members, "json": text.encode()}
        self._last = pair.key
        with writing(self._place):
            self._tar = self._tar or open_tar(self._path)
            self._tar.write({"__key__": pair.key, **members})

    def finish(self) -> None:
        """Completes the shard and marks it as finished."""
        if self._tar is None or self.damaged:
            return
        tar, self._tar = self._tar, None
        with writing(self._place), closing(tar.stream):  # close() leaves it open if it fails
            tar.close()
        with writing(self._place):
            self.packing.mark(self._shard, seal(self._path, len(self._keys)), self.inspector)
        self._keys = set()
        self.inspector.begin()

    def close(self) -> None:
        """Closes the tar, as it is."""
        if self._tar is not None:
            with suppress(OSError), closing(self._tar.stream):  # the error that led here has priority
                self._tar.close()

    @property
    def _path(self) -> Path:
        return self.packing.tar(self._shard)

    @property
    def _place(self) -> str:
        return f"{self._path}: pair {self._last!r}"
