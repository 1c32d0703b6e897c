"""RVL written number by number, as the paper has it: the oracle of the decoder that reads all at once."""

import numpy as np


def encode_rvl(depth: np.ndarray) -> bytes:
    """The code of a picture of 16-bit readings."""
    readings = [int(each) for each in depth.ravel()]
    nibbles: list[int] = []

    def put(number: int) -> None:
        while True:
            low, number = number & 7, number >> 3
            nibbles.append(low | (8 if number else 0))
            if not number:
                return

    at = previous = 0
    while at < len(readings):
        start = at
        while at < len(readings) and not readings[at]:
            at += 1
        put(at - start)
        start = at
        while at < len(readings) and readings[at]:
            at += 1
        put(at - start)
        for reading in readings[start:at]:
            difference = reading - previous
            put(2 * difference if difference >= 0 else -2 * difference - 1)
            previous = reading
    nibbles += [0] * (-len(nibbles) % 8)
    words = np.array(nibbles, np.uint32).reshape(-1, 8) << np.arange(28, -4, -4, dtype=np.uint32)
    return words.sum(axis=1).astype("<u4").tobytes()
