"""Models on the Hugging Face Hub: downloaded at the user's request, and uploaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crossmodal.models.card import CARD, WEIGHTS
from crossmodal.published.files import answers

PREFIX = "hf-hub:"
README = "README.md"


class HubError(RuntimeError):
    """The hub cannot be reached or refuses, and the cache does not have the model."""


def is_on_hub(path: str | Path) -> bool:
    """True for a name such as "hf-hub:me/depth-student", or "hf-hub:me/depth-student@v2" for a revision."""
    return str(path).startswith(PREFIX)


def download(name: str) -> Path:
    """The folder of a model in the hub's cache; files that are missing or outdated there are fetched.

    Without a connection, the cached files are used. Card and weights are of the same commit.

    Args:
        name: "hf-hub:OWNER/NAME" or "hf-hub:OWNER/NAME@REVISION"; a revision is a branch, a tag or a commit.

    Raises:
        HubError: the hub has no such model, refuses, or cannot be reached, and the cache does not have the model.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    with _explained(name) as hub:
        options = {"endpoint": _endpoint(), "local_files_only": not answers(_where(hub))}
        card = Path(hub.hf_hub_download(repository, CARD, revision=revision or None, **options))
        commit = card.parent.name
        hub.hf_hub_download(repository, WEIGHTS, revision=commit, **options)
        with suppress(hub.errors.EntryNotFoundError):  # `save` copies it
            hub.hf_hub_download(repository, README, revision=commit, **options)
    return card.parent


def upload(folder: Path, repository: str, *, private: bool | None, revision: str | None, message: str) -> str:
    """Makes a repository if there is none, and commits the files of a folder; gives the address of the commit.

    Raises:
        HubError: the hub refuses, for example because nobody is logged in, or cannot be reached.
    """
    with _explained(f"{PREFIX}{repository}") as hub:
        if not answers(_where(hub)):
            raise HubError(f"{PREFIX}{repository}: {_where(hub)} cannot be reached; try again later")
        api = hub.HfApi(endpoint=_endpoint())
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        info = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=[CARD, WEIGHTS, README],
        )
        return str(info.commit_url)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None  # libraries read it at their import, which may be long ago


def _where(hub: Any) -> str:
    return _endpoint() or str(hub.constants.ENDPOINT)


@contextmanager
def _explained(name: str) -> Iterator[Any]:
    """The package huggingface_hub; its errors become one sentence.

    Raises:
        HubError: something failed inside.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants  # the package itself has none of its modules
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise HubError(f"{name}: the hub needs the package huggingface_hub "
                       "(pip install 'crossmodal-transfer[hub]')") from error  # fmt: skip
    errors = huggingface_hub.errors
    where = _where(huggingface_hub)
    try:
        yield huggingface_hub
    except HubError:
        raise
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"{name} is not in the cache ({huggingface_hub.constants.HF_HUB_CACHE}), and {where} cannot be "
                       "reached; check the connection, or copy the folder here and load that") from error  # fmt: skip
    except errors.EntryNotFoundError as error:
        raise HubError(f"{name} holds no exported model ({CARD} and {WEIGHTS}); only models that crossmodal.push or "
                       "crossmodal.save wrote can be loaded") from error  # fmt: skip
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name}: {where} has the model, but not this revision") from error
    except errors.HFValidationError as error:
        raise HubError(f"{name} is not the name of a model: it must be {PREFIX}OWNER/NAME or "
                       f"{PREFIX}OWNER/NAME@REVISION") from error  # fmt: skip
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{name}: {where} shows no such model; check the name, or log in (hf auth login) if it is "
                       "private") from error  # fmt: skip
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "no")
        hint = "; log in with a token that may write (hf auth login)" if code in (401, 403) else ""
        raise HubError(f"{name}: {where} refused with status {code}{hint}") from error
    except OSError as error:
        raise HubError(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        raise HubError(f"{name}: {where} cannot be reached ({type(error).__name__}); try again later") from error
