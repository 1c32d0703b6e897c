"""The samples that paths name: files, folders of files, globs, and folders of shards."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmodal.data.manifest import MANIFEST
from crossmodal.data.reader import open_view
from crossmodal.data.samples import FileSamples, Samples, ShardSamples
from crossmodal.data.shards import Shards
from crossmodal.sources.common.listing import all_files
from crossmodal.sources.common.patterns import extension_of, natural, some_files
from crossmodal.stores.paths import is_url
from modalities import Modality


class InputError(ValueError):
    """A path names nothing that a model could read."""


@dataclass
class Inputs:
    """The samples, and the files that are left out."""

    samples: list[Samples] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # files in folders whose extension is not one of the modality's


def find_inputs(words: Sequence[str], modality: Modality, name: str, options: Mapping[str, Any]) -> Inputs:
    """The samples that words name, in their order: files, folders of files, globs, folders or URLs of shards.

    Files of a folder, and those that a glob matches, are in natural order.

    Args:
        words: paths.
        modality: reads and adapts the samples.
        name: of the modality.
        options: of the modality.

    Raises:
        InputError: a folder holds no file of the model's modality, or a glob matches no file.
        ShardError: a folder of shards cannot be opened, or its bytes mean something else than the model was trained on.
    """
    inputs = Inputs()
    for word in words:
        if is_url(word):
            shards = Shards.open(word)
            inputs.samples.append(ShardSamples(shards, open_view(shards, name, **options)))
        elif not Path(word).is_dir():
            inputs.samples.append(FileSamples(_match(word), modality))
        elif any(Path(word).glob(MANIFEST)) or any(Path(word).glob(f"*/{MANIFEST}")):
            shards = Shards.open(word)
            inputs.samples.append(ShardSamples(shards, open_view(shards, name, **options)))
        else:
            inputs.samples.append(FileSamples(_list_folder(Path(word), modality, name, inputs.ignored), modality))
    return inputs


def _match(word: str) -> list[str]:
    """The file, or the files that a glob matches; a file that does not exist is found out when it is read."""
    if Path(word).exists() or not glob.has_magic(word):
        return [word]
    paths = sorted((path for path in glob.glob(word, recursive=True) if not Path(path).is_dir()), key=natural)  # noqa: PTH207 - a pattern may be absolute
    if not paths:
        raise InputError(f"{word} matches no file")
    return paths


def _list_folder(folder: Path, modality: Modality, kind: str, ignored: list[str]) -> list[str]:
    extensions, paths = modality.extensions, list[str]()
    for name in sorted(all_files(folder), key=natural):
        (paths if extension_of(name) in extensions else ignored).append(str(folder / name))
    if not paths:
        raise InputError(f"{folder} holds no file of {kind} ({', '.join(extensions)}); {some_files(folder)}")
    return paths
