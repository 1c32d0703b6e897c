"""The pixels of a decoded frame."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from crossmodal.sources.recordings.stream import Kind

UNSTATED = (0, 2)  # FFmpeg's AVCOL_SPC_RGB and AVCOL_SPC_UNSPECIFIED: there is no matrix to choose
BT601 = 5  # has no effect on RGB, but av 15 uses the matrix of the source only where the two differ


def kind_of(pixels: str) -> Kind:
    """The properties of a pixel format."""
    return "depth" if is_deep_grey(pixels) else "grey" if pixels.startswith("gray") else "rgb"


def is_deep_grey(pixels: str) -> bool:
    """True for a pixel format of one component of more than 8 bits: a depth map, or a thermal picture."""
    return pixels.startswith("gray") and pixels not in ("gray", "gray8")


def content(frame: Any) -> Shaped[np.ndarray, "height width *channels"]:
    """uint8 RGB; of a grey frame, its numbers as they are stored."""
    if frame.format.name.startswith("gray"):
        return component(frame)
    matrix = {} if frame.colorspace in UNSTATED else {"src_colorspace": frame.colorspace, "dst_colorspace": BT601}
    return frame.reformat(format="rgb24", **matrix).to_ndarray()


def component(frame: Any) -> Shaped[np.ndarray, "height width"]:
    """The first component of a frame in planes as it is stored: grey, or luma."""
    name, bits = frame.format.name, frame.format.components[0].bits
    order = ">" if name.endswith("be") else "<"
    kind = f"{'f' if name.startswith('grayf') else 'u'}{(bits + 7) // 8}"
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, abs(plane.line_size))[: frame.height]
    numbers = np.ascontiguousarray(rows).view(np.dtype(order + kind))[:, : frame.width]
    return numbers.astype(np.dtype(kind))


def upright(picture: Shaped[np.ndarray, "height width *channels"], frame: Any) -> np.ndarray:
    """The picture as it is shown: turned and mirrored as the frame's display matrix says."""
    matrix = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = np.sign(np.frombuffer(matrix, dtype=np.int32)).tolist()  # x' = a x + c y, y' = b x + d y
    if b and c and not (a or d):
        picture, a, d = picture.swapaxes(0, 1), c, b
    elif b or c:
        return picture  # not by a multiple of 90 degrees
    return np.ascontiguousarray(picture[:: d or 1, :: a or 1])
