"""Arrays from the bytes of .npy files."""

import io
import math

import numpy as np

from modalities.common.options import Limit


def read_array(payload: bytes, limit: Limit | None = None) -> np.ndarray:
    """The array in a .npy file. No memory is taken for numbers that a header claims and the file does not have.

    Raises:
        DecodeError: it claims more than `limit` allows.
        ValueError: the bytes are damaged or cut short.
    """
    file = io.BytesIO(payload)
    shape, dtype = _read_header(file)
    count, left = math.prod(shape), len(payload) - file.tell()
    if limit is not None:
        limit.check(count, f".npy array {list(shape)}")
    size = count * dtype.itemsize
    if not 0 <= size <= left or (count and not size):
        raise ValueError(f"an array {list(shape)} of {dtype} takes {size} bytes, and {left} follow the header")
    file.seek(0)
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # the same
        raise ValueError(str(error)) from error


def check_claim(start: bytes, limit: Limit) -> None:
    """Refuses a .npy file that claims too many numbers, from its first bytes.

    Raises:
        DecodeError: it claims more than `limit` allows.
        ValueError: the header is damaged.
    """
    shape, _ = _read_header(io.BytesIO(start))
    limit.check(math.prod(shape), f".npy array {list(shape)}")


def _read_header(file: io.BytesIO) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        return shape, dtype
    except Exception as error:  # a damaged header is read as Python and fails as Python does: TokenError, TypeError
        raise ValueError(str(error)) from error
