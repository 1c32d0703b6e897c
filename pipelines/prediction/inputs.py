"""The files and pairs that the words of a command line name."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossmodal.data.manifest import MANIFEST
from crossmodal.data.reader import open_view
from crossmodal.data.samples import FileSamples, Samples, ShardSamples
from crossmodal.data.shards import Shards
from crossmodal.export import Model
from crossmodal.sources.common.listing import all_files
from crossmodal.sources.common.patterns import extension_of, natural, some_files
from pipelines.config import ConfigError


@dataclass
class Inputs:
    """The samples to classify, and the files that are left out."""

    samples: list[Samples] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # files in folders whose extension is not one of the modality's


def find_inputs(words: Sequence[str], model: Model) -> Inputs:
    """The samples that words name, in their order: files, folders of files, globs, folders of shards.

    Files of a folder, and those that a glob matches, are in natural order.

    Raises:
        ConfigError: a folder holds no file of the model's modality, or a glob matches no file.
        ShardError: a folder of shards cannot be opened, or its bytes mean something else than the model was trained on.
    """
    inputs = Inputs()
    for word in words:
        if not Path(word).is_dir():
            inputs.samples.append(FileSamples(_match(word), model.modality))
        elif any(Path(word).glob(MANIFEST)) or any(Path(word).glob(f"*/{MANIFEST}")):
            shards = Shards.open(word)
            inputs.samples.append(
                ShardSamples(shards, open_view(shards, model.card.modality, **model.card.modality_options))
            )
        else:
            inputs.samples.append(FileSamples(_list_folder(Path(word), model, inputs.ignored), model.modality))
    return inputs


def _match(word: str) -> list[str]:
    """The file, or the files that a glob matches; a file that does not exist is found out when it is read."""
    if Path(word).exists() or not glob.has_magic(word):
        return [word]
    paths = sorted((path for path in glob.glob(word, recursive=True) if not Path(path).is_dir()), key=natural)  # noqa: PTH207 - a pattern may be absolute
    if not paths:
        raise ConfigError([f"predict: {word} matches no file"])
    return paths


def _list_folder(folder: Path, model: Model, ignored: list[str]) -> list[str]:
    extensions, paths = model.modality.extensions, list[str]()
    for name in sorted(all_files(folder), key=natural):
        (paths if extension_of(name) in extensions else ignored).append(str(folder / name))
    if not paths:
        raise ConfigError([f"predict: {folder} holds no file of {model.card.modality} ({', '.join(extensions)}); "
                           f"{some_files(folder)}"])  # fmt: skip
    return paths
