"""Arrays from .npy files."""

import io
import math

import numpy as np

from modalities.common.options import Limit


def read_array(file: bytes | io.BufferedIOBase, limit: Limit | None = None, *, size: int = 0) -> np.ndarray:
    """The array in a .npy file. No memory is taken for numbers that a header claims and the file does not have.

    Args:
        file: its bytes, or the opened file.
        limit: of numbers.
        size: bytes of an opened file.

    Raises:
        DecodeError: it claims more than `limit` allows.
        ValueError: the bytes are damaged or cut short.
    """
    if isinstance(file, bytes):
        return read_array(io.BytesIO(file), limit, size=len(file))
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    except Exception as error:  # a damaged header is read as Python and fails as Python does: TokenError, TypeError
        raise ValueError(str(error)) from error
    count, left = math.prod(shape), size - file.tell()
    if limit is not None:
        limit.check(count, f".npy array {list(shape)}")
    taken = count * dtype.itemsize
    if not 0 <= taken <= left or (count and not taken):
        raise ValueError(f"an array {list(shape)} of {dtype} takes {taken} bytes, and {left} follow the header")
    file.seek(0)
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # the same
        raise ValueError(str(error)) from error
