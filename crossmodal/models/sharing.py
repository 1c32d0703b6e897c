"""A model for others: a folder with a card that people read, and the Hugging Face Hub."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from crossmodal.checkpoint import write
from crossmodal.models.card import CARD, WEIGHTS, read_card
from crossmodal.models.files import load, save_model
from crossmodal.models.hub import README, upload
from crossmodal.models.model import Model
from crossmodal.models.provenance import Provenance, provenance_of
from crossmodal.models.readme import write_readme


def save(
    model: Model | str | Path,
    folder: str | Path,
    *,
    evaluation: str | Path | None = None,
    name: str | None = None,
    license: str | None = None,
) -> Path:
    """Writes a model with a README into a folder, which `crossmodal.load` reads; gives the folder.

    The README says what the model eats and gives. If the model was loaded from the folder of a run, it also has the
    digests of the data, the teachers with their licences, the config, and the figures of an evaluation, unless its
    weights were changed since.

    Args:
        model: a loaded model, or what `crossmodal.load` takes.
        folder: is made if it does not exist; files of an earlier model in it are replaced.
        evaluation: folder of an evaluation of this model; None: the newest one beside the run that measured it.
        name: of the model in the README; None: the folder's name.
        license: an identifier of the hub, such as "apache-2.0".

    Raises:
        ExportError: the model cannot be loaded, or `evaluation` did not measure it.
        WriteError: a file cannot be written.
    """
    model = model if isinstance(model, Model) else load(model, device="cpu")
    folder = Path(folder)
    source = provenance_of(model.folder, evaluation)
    files = _files(model.folder)
    card = None if model.folder is None else read_card(model.folder)
    save_model(folder, model.card, model.encoder, model.heads)
    is_same = WEIGHTS in files and _equal(load_tensors(files[WEIGHTS]), load_tensors((folder / WEIGHTS).read_bytes()))
    if is_same and card == model.card:
        for file in (WEIGHTS, CARD):
            write(folder / file, files[file])  # to the byte, so that the digest stays equal
    if is_same and README in files and source == Provenance() and license is None:
        write(folder / README, files[README])  # of a shared model, which says more than can be known now
    else:
        known = source if is_same else Provenance()
        write(folder / README, write_readme(model, known, name=name or folder.absolute().name, license=license))
    return folder


def _files(folder: Path | None) -> dict[str, bytes]:
    """The files of an exported model that are there."""
    paths = [] if folder is None else [folder / name for name in (CARD, WEIGHTS, README)]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _equal(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    return before.keys() == now.keys() and all(torch.equal(tensor, now[name]) for name, tensor in before.items())


def push(
    model: Model | str | Path,
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    evaluation: str | Path | None = None,
    license: str | None = None,
    message: str = "Upload a model of crossmodal-transfer",
) -> str:
    """Uploads a model with a README to the Hugging Face Hub; gives the address of the commit.

    Args:
        model: see `save`.
        repository: "OWNER/NAME"; it is made if it does not exist.
        private: whether a new repository can be seen by its owner only; None: as the owner's settings say.
        revision: a branch, which is made if it does not exist; None: the main one.
        evaluation: see `save`.
        license: see `save`.
        message: of the commit.

    Raises:
        HubError: the hub refuses or cannot be reached; the message says what to do.
        ExportError: see `save`.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, evaluation=evaluation, name=repository, license=license)
        return upload(Path(folder), repository, private=private, revision=revision, message=message)
