"""Small files in the layout of published data sets, written with h5py, SciPy and Pillow from their descriptions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

h5py = pytest.importorskip("h5py", reason="the sources of MATLAB files need the package h5py")

NYU_DATA, NYU_SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
NYU_MAP_40, NYU_MAP_13 = "classMapping40.mat", "class13Mapping.mat"
SUN_META, SUN_LABELS = "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat", "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat"
SUN_NAMES, SUN_SPLITS = "SUNRGBDtoolbox/Metadata/seg37list.mat", "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
SUN_AUTHORS = "/n/fs/sun3d/data/SUNRGBD"


def save_7_3(path: Path, variables: Mapping[str, np.ndarray | Sequence[str] | Sequence[np.ndarray]]) -> None:
    """As MATLAB saves: a header of 512 bytes and arrays with their axes reversed.

    A row of strings is [1, n] references to columns of UTF-16 codes, a column of arrays [n, 1] references to arrays.
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in variables.items():
            if isinstance(values, np.ndarray):
                file.create_dataset(name, data=np.ascontiguousarray(np.transpose(values)))
                continue
            cells = [
                np.array([[ord(letter)] for letter in item], np.uint16)
                if isinstance(item, str)
                else np.ascontiguousarray(item.T)
                for item in values
            ]
            references = np.empty(len(cells), h5py.ref_dtype)
            for place, data in enumerate(cells):
                references[place] = file.create_dataset(f"#refs#/{name.replace('/', '_')}{place}", data=data).ref
            shape = (1, -1) if isinstance(values[0], str) else (-1, 1)
            file.create_dataset(name, data=references.reshape(shape), dtype=h5py.ref_dtype)
    with path.open("r+b") as start:
        start.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def cell(texts: Sequence[str]) -> np.ndarray:
    """A row of strings for a file of version 5."""
    row = np.empty((1, len(texts)), object)
    row[0] = texts
    return row


def save_nyu_data(root: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str], scenes: Sequence[str]) -> None:
    """Arrays as MATLAB shows them, height x width (x 3) x pictures; scenes such as kitchen_0001."""
    types = [scene.rsplit("_", 1)[0] for scene in scenes]
    save_7_3(root / NYU_DATA, {**arrays, "names": names, "scenes": scenes, "sceneTypes": types})


def save_nyu_split(root: Path, train: Sequence[int], test: Sequence[int]) -> None:
    columns = {"trainNdxs": train, "testNdxs": test}
    scipy.io.savemat(root / NYU_SPLITS, {name: np.array([[*ids]], np.uint16).T for name, ids in columns.items()})


def save_nyu_mappings(
    root: Path, names_40: Sequence[str], to_40: Sequence[int], names_13: Sequence[str], to_13: Sequence[int]
) -> None:
    coarse = {"className": cell(names_40), "mapClass": np.array([to_40], np.uint8)}
    others = {"mapToNYUSuperClass": np.array([[1]], np.uint8), "allClassName": cell(["x"] * len(to_40))}
    scipy.io.savemat(root / NYU_MAP_40, coarse | others)
    coarser = {"labels13": np.array([to_13], np.uint8), "classNames": cell(names_13)}
    scipy.io.savemat(root / NYU_MAP_13, {"classMapping13": coarser})


def save_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rotate(millimetres: np.ndarray) -> np.ndarray:
    """A distance's 16 bits, moved to the left by 3; the highest 3 become the lowest."""
    bits = [f"{distance:016b}" for distance in millimetres.ravel()]
    return np.array([int(text[3:] + text[:3], 2) for text in bits], np.uint16).reshape(millimetres.shape)


def save_sun_frame(
    folder: Path, number: int, colour: np.ndarray, millimetres: Mapping[str, np.ndarray], scene: str
) -> None:
    """A picture with the maps of depth_bfx and depth."""
    save_picture(folder / f"image/{number:07d}.jpg", colour)
    for name, distances in millimetres.items():
        save_picture(folder / f"{name}/{number:07d}_abs.png", rotate(distances))
    (folder / "scene.txt").write_text(scene)


def save_sun_meta(root: Path, folders: Sequence[str]) -> None:
    fields = ("sequenceName", "groundtruth3DBB", "K", "depthpath", "rgbpath", "depthname", "rgbname", "sensorType")
    meta = np.zeros((1, len(folders)), [(name, object) for name in fields])
    boxes = np.array([[(np.eye(3), "chair")]], [("basis", object), ("classname", object)])
    for place, folder in enumerate(folders):
        depth, rgb = f"{place + 1:07d}_abs.png", f"{place + 1:07d}.jpg"
        paths = (f"{SUN_AUTHORS}/{folder}//depth/{depth}", f"{SUN_AUTHORS}/{folder}//image/{rgb}")
        meta[0, place] = (f"SUNRGBD/{folder}", boxes, np.eye(3), *paths, depth, rgb, folder.split("/")[0])
    (root / SUN_META).parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(root / SUN_META, {"SUNRGBDMeta": meta})


def save_sun_labels(root: Path, maps: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """A structure of cells is a group of references in version 7.3."""
    save_7_3(root / SUN_LABELS, {"SUNRGBD2Dseg/seglabel": maps, "SUNRGBD2Dseg/seglabelall": maps})
    scipy.io.savemat(root / SUN_NAMES, {"seg37list": cell(names)})


def save_sun_splits(
    root: Path, train: Sequence[str], test: Sequence[str], divided: tuple[Sequence[str], Sequence[str]]
) -> None:
    """Folders of the authors' machine, every second with a slash at the end; `divided` is the training part."""

    def row(folders: Sequence[str]) -> np.ndarray:
        return cell([f"{SUN_AUTHORS}/{folder}" + "/" * (place % 2) for place, folder in enumerate(folders)])

    part = {"train": row(divided[0]).T, "val": row(divided[1]).T}
    (root / SUN_SPLITS).parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(root / SUN_SPLITS, {"alltrain": row(train), "alltest": row(test), "trainvalsplit": part})
