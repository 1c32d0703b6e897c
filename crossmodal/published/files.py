"""Files of published networks: where libraries keep them, and how they are fetched."""

import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmodal.checkpoint import writing
from crossmodal.data.manifest import sha256_of
from crossmodal.published.names import WeightsError, is_folder

TIMEOUT_S = 10.0  # without an answer
_SIGNS = ("config.json", "open_clip_config.json", "model.safetensors", "open_clip_model.safetensors",
          "pytorch_model.bin", "open_clip_pytorch_model.bin")  # files one of which a copy has  # fmt: skip
_HEAD = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)  # of a model card
_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


class Repository:
    """A model on the Hugging Face Hub, or the folder of a copy of one.

    Raises:
        WeightsError: the folder does not exist.
    """

    def __init__(self, weights: str, name: str, revision: str | None, *, download: bool) -> None:
        self.weights, self.name, self.wanted, self.download = weights, name, revision, download
        self.folder = Path(name).expanduser() if is_folder("hf-hub:", name) else None
        self.is_cut_off = False  # the hub did not answer
        if self.folder is not None and not self.folder.is_dir():
            raise WeightsError(f"{weights}: there is no folder {self.folder}")

    def commit(self, path: Path) -> str | None:
        """The commit of a file in the hub's cache; None for other files."""
        inside = path.is_relative_to(hub_cache())
        return path.relative_to(hub_cache()).parts[2] if inside else None  # models--ORG--NAME/snapshots/COMMIT

    @property
    def licence(self) -> str | None:
        """The licence in the head of the model card, where there is a card."""
        card = self.optional("README.md")
        head = None if card is None else _HEAD.match(card.read_text(encoding="utf-8", errors="replace"))
        stated = None if head is None else _LICENCE.search(head[1])
        return None if stated is None else stated[1]

    def file(self, *names: str) -> Path:
        """The first of several files that there is.

        Raises:
            WeightsError: there is none; the message says where it was looked for, and how to get it.
        """
        for name in names:
            if (path := self.optional(name)) is not None:
                return path
        wanted = " or ".join(names)
        if self.folder is not None:
            raise WeightsError(f"{self.weights}: {self.folder} holds no {wanted}")
        if self.download:
            reason = "the hub cannot be reached, and its copy here" if self.is_cut_off else f"the hub's {self.name}"
            raise WeightsError(f"{self.weights}: {reason} has no {wanted}")
        at = f" --revision {self.wanted}" if self.wanted else ""
        raise WeightsError(
            f"{self.weights}: {wanted} of {self.name}{f' at {self.wanted}' if self.wanted else ''} is not in "
            f"{hub_cache()}, and nothing is downloaded unless you say so: set download=true beside weights, or call "
            f"hf download {self.name}{at}"
        )

    def optional(self, name: str) -> Path | None:
        """A file; None if the repository does not have it, or it is not in the cache and is not downloaded.

        Without a connection, a copy in the cache counts as the repository.

        Raises:
            WeightsError: the hub cannot be reached and there is no copy, or it refuses.
        """
        if self.folder is not None:
            return self.folder / name if (self.folder / name).is_file() else None
        return self.cached(name) or (self._fetched(name) if self.download and not self.is_cut_off else None)

    def cached(self, name: str) -> Path | None:
        """A file in the hub's cache; None if it is not there, and for the folder of a copy."""
        if self.folder is not None:
            return None
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.name, name, cache_dir=hub_cache(), revision=self.wanted)
        return Path(path) if isinstance(path, str) else None

    def _fetched(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        options: dict[str, Any] = {"cache_dir": hub_cache(), "etag_timeout": TIMEOUT_S}
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            if not answers(endpoint):  # else the client would try again for minutes
                raise LocalEntryNotFoundError(f"{endpoint} does not answer")
            return Path(hf_hub_download(self.name, name, revision=self.wanted, endpoint=endpoint, **options))
        except LocalEntryNotFoundError as error:
            if any(self.cached(each) for each in _SIGNS):
                self.is_cut_off = True
                return None
            raise WeightsError(f"{self.weights}: the hub at {endpoint} cannot be reached, and {name} is not in "
                               f"{hub_cache()}; try again later, or copy the files there") from error  # fmt: skip
        except EntryNotFoundError:
            return None
        except Exception as error:  # names that are nowhere, private ones, a full disk, broken connections
            reason = f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__
            raise WeightsError(f"{self.weights}: {name} could not be fetched from {endpoint}: {reason}") from error


def hub_cache() -> Path:
    """The hub's cache folder, as HF_HUB_CACHE, HF_HOME or XDG_CACHE_HOME set it."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{home}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def torch_cache() -> Path:
    """The folder of torch's downloaded weights, as TORCH_HOME or XDG_CACHE_HOME set it."""
    home = os.environ.get("TORCH_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def answers(endpoint: str) -> bool:
    """True if a server answers anything in time; False without asking if HF_HUB_OFFLINE is set."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def from_url(weights: str, url: str, folders: Sequence[Path], *, sha256: str, download: bool) -> Path:
    """The file of an address in one of a library's cache folders; fetched into the first, if that is wanted.

    Args:
        weights: the name in the config, for messages.
        url: of the file.
        folders: where libraries keep it.
        sha256: the first digits of its sum, which are checked; empty: none are known.
        download: fetch it if it is in none of the folders.

    Raises:
        WeightsError: it is nowhere, cannot be fetched, or has another sum.
    """
    name = url.rpartition("/")[2]
    places = [folder / name for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None and not download:
        raise WeightsError(f"{weights}: there is no {' or '.join(map(str, places))}, and nothing is downloaded unless "
                           f"you say so: set download=true beside weights, or fetch {url}")  # fmt: skip
    if path is None:
        return _fetch(weights, url, places[0], sha256)
    if not (actual := sha256_of(path) if sha256 else "").startswith(sha256):
        raise WeightsError(f"{weights}: {path} is not the published file: its sha256 must begin with {sha256}, got "
                           f"{actual}; delete it and fetch it again")  # fmt: skip
    return path


def _fetch(weights: str, url: str, path: Path, sha256: str) -> Path:
    """Fetches a file; only the whole one appears at `path`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, aside.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            expected = answer.headers.get("Content-Length")
        if expected is not None and (size := aside.stat().st_size) != int(expected):
            raise WeightsError(f"{weights}: the connection to {url} ended after {size} of {expected} bytes; try again")
        if not (actual := sha256_of(aside) if sha256 else "").startswith(sha256):
            raise WeightsError(f"{weights}: {url} gave another file than the published one: its sha256 must begin with "
                               f"{sha256}, got {actual}; nothing was stored")  # fmt: skip
        aside.replace(path)
    except WeightsError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{weights}: {url} could not be fetched: {getattr(error, 'reason', None) or error}"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return path
