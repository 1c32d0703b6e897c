"""MATLAB files: version 5, read by SciPy, and version 7.3, which is HDF5, read by h5py.

MATLAB stores arrays column by column and HDF5 row by row, so h5py sees the axes of a version 7.3 file in reverse order:
a MATLAB array of height x width x 3 x pictures is [pictures, 3, width, height]. A cell array of strings is an array of
references, each to an array of UTF-16 codes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossmodal.sources import SourceError

if TYPE_CHECKING:
    import h5py

_INSTALL = "pip install 'crossmodal-transfer[datasets]'"
_STARTS = {"5": b"MATLAB 5.0 MAT-file", "7.3": b"MATLAB 7.3 MAT-file"}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_AT = (0, 512)  # MATLAB writes its own header of 512 bytes in front; other programs write none


def read_variables(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The named variables of a file of version 5, with axes of length 1 removed and structures as dictionaries.

    Raises:
        SourceError: the file is missing, of another version, damaged or cut short, or lacks a variable.
    """
    _check_version(path, "5")
    try:
        import scipy.io
    except ModuleNotFoundError as error:
        raise SourceError(f"{path} needs the package scipy, which is not installed: {_INSTALL}") from error
    try:
        variables = scipy.io.loadmat(path, simplify_cells=True)  # all variables, or a missing end would not show
    except Exception as error:  # damage leads to many kinds of exceptions, TypeError and zlib.error among them
        raise SourceError(f"{path} is damaged or cut short: {error}; fetch it again") from error
    _check_names(path, names, [name for name in variables if not name.startswith("__")])
    return {name: variables[name] for name in names}


@contextmanager
def open_hdf5(path: Path, names: Sequence[str]) -> Iterator["h5py.File"]:
    """A file of version 7.3 that has the named variables; reading damaged data in the context is a SourceError too.

    Raises:
        SourceError: h5py is not installed, or the file is missing, of another version, damaged or cut short, or lacks
            a variable.
    """
    _check_version(path, "7.3")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise SourceError(f"{path} needs the package h5py, which is not installed: {_INSTALL}") from error
    try:
        with h5py.File(path, "r") as file:
            _check_names(path, names, [name for name in file if name != "#refs#"])
            yield file
    except SourceError:
        raise
    except Exception as error:  # OSError, RuntimeError or KeyError, depending on what is damaged
        raise SourceError(f"{path} is damaged or cut short: {error}; fetch it again") from error


def read_strings(file: "h5py.File", name: str) -> list[str]:
    """A cell array of strings of a version 7.3 file."""
    return ["".join(map(chr, np.ravel(file[reference]))) for reference in np.ravel(file[name])]


def _check_version(path: Path, version: str) -> None:
    if not path.is_file():
        raise SourceError(f"root: {path} is missing")
    with path.open("rb") as file:
        start = file.read(_HDF5_AT[-1] + len(_HDF5))
    if any(start.startswith(_HDF5, offset) for offset in _HDF5_AT):
        actual = "7.3"
    else:
        actual = next((name for name, text in _STARTS.items() if start.startswith(text)), "")
    if not actual:
        raise SourceError(f"{path} must be a MATLAB file of version {version}, but begins with {start[:16]!r}")
    if actual != version:
        raise SourceError(
            f"{path} must be a MATLAB file of version {version}, as published, but is of version {actual}; fetch the "
            "original, or save it again in that version"
        )


def _check_names(path: Path, names: Sequence[str], present: Sequence[str]) -> None:
    for name in names:
        if name not in present:
            raise SourceError(f"{path} has no variable {name!r}; it has {', '.join(sorted(present)) or 'none'}")
