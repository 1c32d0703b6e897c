"""RVL: decoding gives back what an encoder in loops was given."""

import numpy as np
import pytest
from rvl_by_hand import encode_rvl

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.rvl import decode_rvl

RNG = np.random.default_rng(0)
PICTURES = {
    "noise": RNG.integers(0, 65536, 200),
    "holes": RNG.integers(0, 65536, 200) * (RNG.random(200) > 0.4),
    "empty": np.zeros(200),
    "extremes": np.array([65535, 1, 65535, 0, 0, 1]),
    "long runs": np.concatenate([np.zeros(5000), np.full(5000, 1234)]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_decoding_gives_back_the_readings(name: str) -> None:
    depth = PICTURES[name].astype(np.uint16)
    np.testing.assert_array_equal(decode_rvl(encode_rvl(depth), len(depth)), depth, strict=True)


def test_code_that_is_cut_short_is_refused() -> None:
    depth = PICTURES["holes"].astype(np.uint16)
    for size in (0, 40, len(encode_rvl(depth)) - 8):
        with pytest.raises(SourceError, match=r"its RVL is (cut short|damaged) at pixel"):
            decode_rvl(encode_rvl(depth)[:size], len(depth))


def test_code_of_another_size_or_without_end_is_refused() -> None:
    with pytest.raises(SourceError, match="its RVL is damaged at pixel"):
        decode_rvl(encode_rvl(np.full(10, 7)), 5)
    with pytest.raises(SourceError, match="a number has more bits"):
        decode_rvl(b"\xff" * 40 + bytes(4), 5)
