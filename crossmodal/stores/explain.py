"""Errors of the libraries that read stores, each in one sentence without secrets."""

import re
from collections.abc import Sequence

from crossmodal.stores.errors import MissingError, ShortError, StoreError, UnlistableError, clean

AGAIN = "then run the same command again"
CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the machine; "
          "AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the service account of the machine",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or another AZURE_... of obstore",
    "hf": "HF_TOKEN, or hf auth login",
}  # fmt: skip
FORBIDDEN = (
    r"status code: 40[13]|PermissionDenied|PermissionError|Unauthenticated|AccessDenied"
    r"|\b40[13] (Client Error|Unauthorized|Forbidden)"
)
PATHS = re.compile(r"(\w://[^\s/?#()\"']*)[^\s()\"']*")
UNLISTABLE = re.compile(r"performing PROPFIND .*status code: (400|403|404|405|501)|decoding PROPFIND", re.DOTALL)
CASES: Sequence[tuple[str, str]] = (  # what the text of an error matches, and the sentence; the first one counts
    (FORBIDDEN, "access is refused; give credentials that may read and list {host} ({credentials})"),
    (r"169\.254\.169\.254|credential", "there are no credentials; set {credentials}"),
    (r"redirect", "the bucket is in another region; set AWS_REGION"),
    (r"(?:status code: (?=\d{3})|\b(?=5\d\d Server Error))(?P<status>\d{3})",
     "the store answers with status {status} after {attempts}; wait, {again}"),
    (r"timed out|TimeoutError", "{host} does not answer in time after {attempts}; check the network, {again}"),
    (r"error sending request|client error|dns|connect|offline",
     "{host} cannot be reached after {attempts}; check the name, the network and the endpoint, {again}"),
    (r"response body|incomplete|end of file|reset|payload",
     "the connection broke off after {attempts}; check the network, {again}"),
)  # fmt: skip


def explain(url: str, error: Exception, attempts: int) -> StoreError:
    """An error of a library, in words that say what to do."""
    text, host = f"{type(error).__name__}: {told(url, error)}", "/".join(url.split("/")[:3])
    if UNLISTABLE.search(text):
        return UnlistableError(f"{url}: this server cannot list a folder; give the folder of one split")
    if isinstance(error, FileNotFoundError) or "status code: 404" in text:
        what = f"there is no bucket {host}" if "NoSuchBucket" in text else "there is no such object or bucket"
        return MissingError(f"{url}: {what}; check the name")
    if "status code: 416" in text:
        return ShortError(url)
    count = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    credentials = CREDENTIALS.get(url[:2], "the login of its own tools")
    for pattern, sentence in CASES:
        if found := re.search(pattern, text, re.IGNORECASE):
            words = {"host": host, "credentials": credentials, "attempts": count, "again": AGAIN}
            return StoreError(f"{url}: {sentence.format(**words, **found.groupdict())}")
    return StoreError(f"{url}: {first_line(error)}")


def told(url: str, error: Exception) -> str:
    """The text and status of an error, without the values of the library's variables and without names of objects.

    Args:
        url: of the object.
        error: of a library.
    """
    text, place = str(error).partition("Debug source:")[0], url.partition("://")[2]
    bucket, _, path = place.partition("/")
    text = PATHS.sub(r"\1", re.sub(rf"://{re.escape(bucket)}\b", "://", text))
    for name in filter(None, (place, path, path.rpartition("/")[2])):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "", text)
    status = getattr(error, "status", None)
    return text if status is None else f"{text} (status code: {status})"


def first_line(error: Exception) -> str:
    """The first line of an error, without secrets."""
    return clean(str(error).splitlines()[0] if str(error) else type(error).__name__)[:300]
