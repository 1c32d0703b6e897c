"""The libraries that read stores: obstore for S3, Google, Azure and HTTP, fsspec for everything else."""

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from crossmodal.stores.errors import ShortError, StoreError, clean
from crossmodal.stores.explain import explain, first_line, told

Made = TypeVar("Made")
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl", "http", "https")  # of obstore
INSTALL = "pip install 'crossmodal-transfer[remote]'"
RETRIES = "CROSSMODAL_STORE_RETRIES"  # environment variable: attempts after the first; 0: none
COALESCE = 1 << 20  # bytes between two spans up to which one request reads both
BROKEN = re.compile(r"decoding response body|response body error|incomplete|end of file|reset|payload", re.IGNORECASE)
REPEATED = re.compile(r"after (\d+) retries")  # those of obstore itself
PASSING = re.compile(r"Timeout|Connection|ConnectError|Disconnected|status code: 5\d\d|\b5\d\d Server Error")  # fsspec


class Backend(ABC):
    """The objects of one folder of a store.

    Raises:
        StoreError: by every method, the store does not answer, refuses access, or gives fewer bytes than asked for.
        MissingError: by `size`, `get` and `ranges`, there is no such object.
    """

    def size(self, url: str) -> int:
        """The size of an object in bytes."""
        return self._retry(url, lambda: self._size(url))

    def get(self, url: str) -> bytes:
        """A whole object."""
        return self._retry(url, lambda: self._get(url))

    def ranges(self, url: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of an object at each (offset, size)."""
        starts, sizes = [start for start, _ in spans], [size for _, size in spans]
        return self._retry(url, lambda: _whole(url, spans, self._ranges(url, starts, sizes)))

    def names(self, url: str) -> list[str]:
        """The names of the objects and folders in the folder, in order."""
        return self._retry(url, lambda: sorted(self._names(url)))

    def _retry(self, url: str, read: Callable[[], Made]) -> Made:
        """The result of `read`, repeated after an error that may pass and that the library does not repeat itself.

        Raises:
            StoreError: says what is wrong and what to do.
        """
        requests, short = 0, False
        for attempt in range(retries() + 1):
            try:
                return read()
            except ShortError:  # a broken connection looks like this too, but seldom twice
                if short or attempt == retries():
                    raise
                short = True
            except StoreError:
                raise
            except Exception as error:
                repeated = REPEATED.search(str(error))
                requests += 1 + int(repeated[1] if repeated else 0)
                if attempt == retries() or not self._may_pass(url, error):
                    raise explain(url, error, requests) from None  # the text of the library may have secrets
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _may_pass(self, url: str, error: Exception) -> bool:
        """True for an error after which the request is repeated."""
        return BROKEN.search(told(url, error)) is not None

    @abstractmethod
    def _size(self, url: str) -> int: ...

    @abstractmethod
    def _get(self, url: str) -> bytes: ...

    @abstractmethod
    def _ranges(self, url: str, starts: list[int], sizes: list[int]) -> list[bytes]: ...

    @abstractmethod
    def _names(self, url: str) -> list[str]: ...


def open_backend(folder: str) -> Backend:
    """The backend of a folder.

    Raises:
        StoreError: its library is not installed, or there is none for its scheme.
    """
    return Obstore(folder) if _scheme(folder) in SCHEMES else Fsspec(folder)


def retries() -> int:
    """How often a request is repeated."""
    return int(os.environ.get(RETRIES, "5"))


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _name(url: str) -> str:
    return url.rpartition("/")[2]


class Obstore(Backend):
    """Objects by obstore."""

    def __init__(self, folder: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ModuleNotFoundError as error:
            raise StoreError(f"{folder} needs the package obstore: {INSTALL}") from error
        self.obstore, scheme = obstore, _scheme(folder)
        backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
        options: dict[str, Any] = {
            "retry_config": {"max_retries": retries(), "retry_timeout": timedelta(seconds=60), "backoff": backoff},
            "client_options": {"connect_timeout": "5s", "read_timeout": "20s", "timeout": "120s"},
        }
        if scheme == "http" or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["client_options"]["allow_http"] = True
        if scheme in ("s3", "s3a"):
            options |= _profile()
        try:
            self.store = from_url(folder, **options)
        except Exception as error:
            raise StoreError(f"{clean(folder)}: {first_line(error)}") from error

    def _size(self, url: str) -> int:
        return int(self.obstore.head(self.store, _name(url))["size"])

    def _get(self, url: str) -> bytes:
        return bytes(self.obstore.get(self.store, _name(url)).bytes())

    def _ranges(self, url: str, starts: list[int], sizes: list[int]) -> list[bytes]:
        pieces = self.obstore.get_ranges(self.store, _name(url), starts=starts, lengths=sizes, coalesce=COALESCE)
        return [bytes(piece) for piece in pieces]

    def _names(self, url: str) -> list[str]:
        found = self.obstore.list_with_delimiter(self.store)
        return [*map(_name, [*found["common_prefixes"], *(each["path"] for each in found["objects"])])]


class Fsspec(Backend):
    """Objects by fsspec, such as those of hf://."""

    def __init__(self, folder: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise StoreError(f"{folder} needs the package fsspec: {INSTALL}") from error
        scheme = _scheme(folder)
        try:
            self.files, _ = fsspec.core.url_to_fs(folder)
        except ValueError as error:
            known = ", ".join(f"{each}://" for each in (*SCHEMES, "hf"))
            raise StoreError(
                f"{folder}: no store is named {scheme}://; known are {known} and those of fsspec"
            ) from error
        except ImportError as error:
            raise StoreError(f"{folder} needs a further package: {first_line(error)}") from error

    def _may_pass(self, url: str, error: Exception) -> bool:
        kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
        text = told(url, error)
        return super()._may_pass(url, error) or PASSING.search(f"{kinds}: {text}") is not None

    def _size(self, url: str) -> int:
        found = self.files.info(url)
        if found["type"] != "file":
            raise FileNotFoundError(url)
        return int(found["size"])

    def _get(self, url: str) -> bytes:
        return bytes(self.files.cat_file(url))

    def _ranges(self, url: str, starts: list[int], sizes: list[int]) -> list[bytes]:
        stops = [start + size for start, size in zip(starts, sizes, strict=True)]
        return [*self.files.cat_ranges([url] * len(starts), starts, stops, on_error="raise")]

    def _names(self, url: str) -> list[str]:
        try:
            return [_name(path.rstrip("/")) for path in self.files.ls(url, detail=False)]
        except FileNotFoundError:
            return []


def _profile() -> Mapping[str, Any]:
    """The credentials of ~/.aws or a role, which obstore takes through boto3; those of the environment come first."""
    if any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:  # obstore itself asks the machine for its role
        return {}
    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except Exception:  # there are none; the first request says so
        return {}


def _whole(url: str, spans: Sequence[tuple[int, int]], pieces: list[bytes]) -> list[bytes]:
    if [size for _, size in spans] != [len(piece) for piece in pieces]:
        raise ShortError(url)
    return pieces
