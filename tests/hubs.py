"""Copies of published models as libraries keep them: the cache of the Hugging Face Hub, with small random weights."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def keep(hub: Path, repository: str, files: Mapping[str, str | bytes | Path], revision: str = "main") -> str:
    """A snapshot of a repository in the layout of huggingface_hub: blobs, links and a ref; gives its commit."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    commit = hashlib.sha1(f"{repository}{revision}".encode()).hexdigest()
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    snapshot = folder / "snapshots" / commit
    for name, content in files.items():
        payload = content.read_bytes() if isinstance(content, Path) else content
        payload = payload.encode() if isinstance(payload, str) else payload
        blob = folder / "blobs" / hashlib.sha256(payload).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(payload)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return commit


def stir(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with random weights and statistics, so that no layer of it is a constant."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                width = math.prod(tensor.shape[1:]) ** 0.5 if tensor.ndim > 1 else 1.0
                tensor.copy_(3 * (noise - 0.5) / width if tensor.ndim > 1 else 0.5 + noise)
    return network.eval()


def saved(network: nn.Module, path: Path) -> Path:
    """The network's state as a file of safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, path)
    return path


def pixels(side: int, seed: int = 0) -> Any:
    """A PIL picture of noise with structure."""
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return Image.fromarray((smooth[0].permute(1, 2, 0) * 255).byte().numpy())


def as_view(picture: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """What the view of such a network gives for a PIL picture of its size: decoded, adapted and normalised by ours."""
    import io

    from modalities import MODALITIES, CropBox

    with io.BytesIO() as file:
        picture.save(file, "PNG")
        payload = file.getvalue()
    view = MODALITIES.get("rgb")(size=picture.size[0], mean=tuple(mean), std=tuple(std))
    return view.normalise(view.adapt(view.decode(payload), CropBox())[None])
