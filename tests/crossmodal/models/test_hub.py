"""Models on the hub, against a stand-in on the loopback: pushed, loaded, from the cache, and every refusal."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, Hub, serve

import crossmodal as cm
from crossmodal.models import CARD, WEIGHTS, Card, ExportError, HubError, Model, digest, load_model, save_model

huggingface_hub = pytest.importorskip("huggingface_hub", reason="an optional package: pip install '.[hub]'")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub and an empty cache; a user who is logged in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve() as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield hub


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small depth network."""
    folder = tmp_path_factory.mktemp("exported")
    options = {"size": 16, "max_m": 8.0}
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 16, 16), [], "depth", options)
    torch.manual_seed(0)
    save_model(folder, card, card.build(), {})
    return load_model(folder)


def frame(seed: int = 0) -> torch.Tensor:
    return 1 + 4 * torch.rand(20, 20, generator=torch.Generator().manual_seed(seed))


def test_a_pushed_model_is_loaded_with_equal_vectors_and_has_a_readme(hub: Hub, model: Model) -> None:
    address = cm.push(model, "me/depth-student", private=True, message="First version")
    commit = hub.branches["me/depth-student"]["main"]
    assert address.endswith(f"/me/depth-student/commit/{commit}") and hub.messages == ["First version"]
    assert hub.private["me/depth-student"] is True
    files = hub.commits["me/depth-student"][commit]
    assert {CARD, WEIGHTS, "README.md"} <= {*files} and b"cm.load('hf-hub:me/depth-student')" in files["README.md"]
    loaded = cm.load("hf-hub:me/depth-student", device="cpu")
    assert torch.equal(loaded.embed(frame()), model.embed(frame()))
    assert loaded.folder is not None and model.folder is not None and digest(loaded.folder) == digest(model.folder)


def test_the_conventions_of_the_hub_do_the_same(hub: Hub, model: Model, tmp_path: Path) -> None:
    model.push_to_hub("me/depth-student")
    model.save_pretrained(tmp_path / "saved")
    for loaded in (Model.from_pretrained("me/depth-student"), Model.from_pretrained(str(tmp_path / "saved"))):
        assert torch.equal(loaded.embed(frame()), model.embed(frame()))


def test_a_revision_is_a_branch_or_a_commit(hub: Hub, model: Model, tmp_path: Path) -> None:
    cm.push(model, "me/depth-student")
    first = hub.branches["me/depth-student"]["main"]
    torch.manual_seed(1)
    save_model(tmp_path / "other", model.card, model.card.build(), {})
    other = load_model(tmp_path / "other")
    cm.push(other, "me/depth-student", revision="v2")
    for name, expected in {"": model, "@v2": other, f"@{first}": model, "@main": model}.items():
        assert torch.equal(cm.load(f"hf-hub:me/depth-student{name}").embed(frame()), expected.embed(frame())), name
    assert torch.equal(Model.from_pretrained("me/depth-student", revision="v2").embed(frame()), other.embed(frame()))


def test_without_a_connection_the_cache_is_used_and_an_empty_one_is_one_sentence(
    hub: Hub, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    cm.push(model, "me/depth-student")
    cm.load("hf-hub:me/depth-student")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    began = time.monotonic()
    assert torch.equal(cm.load("hf-hub:me/depth-student").embed(frame()), model.embed(frame()))
    with pytest.raises(
        HubError, match=r"^hf-hub:me/other is not in the cache \(.*\), and http://127\.0\.0\.1:9 cannot"
    ):
        cm.load("hf-hub:me/other")
    with pytest.raises(HubError, match=r"^hf-hub:me/other: http://127\.0\.0\.1:9 cannot be reached"):
        cm.push(model, "me/other")
    assert time.monotonic() - began < 60  # it would hang without limits


def test_a_hub_that_never_answers_is_waited_for_once(hub: Hub, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cm.push(model, "me/depth-student")
    cm.load("hf-hub:me/depth-student")
    monkeypatch.setattr("crossmodal.published.files.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert cm.load("hf-hub:me/depth-student").folder is not None
        for call in (lambda: cm.load("hf-hub:me/other"), lambda: cm.push(model, "me/other")):
            with pytest.raises(HubError, match="cannot be reached"):
                call()
        assert time.monotonic() - began < 20  # huggingface_hub itself takes minutes


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("me/empty", {"README.md": b""})
    cm.push(model, "me/depth-student", private=True)
    for name, told in {
        "me/nowhere": "shows no such model; check the name, or log in",
        "me/empty": "holds no exported model",
        "me/depth-student@v9": "has the model, but not this revision",
        "me/a/b": "is not the name of a model: it must be hf-hub:OWNER/NAME",
        "": "is not the name of a model",
    }.items():
        with pytest.raises(HubError, match=rf"^hf-hub:{name}:? .*{told}") as caught:
            cm.load(f"hf-hub:{name}")
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        HubError, match=r"hf-hub:me/new: .* refused with status 401; log in with a token that may write"
    ):
        cm.push(model, "me/new")
    with pytest.raises(HubError, match="shows no such model"):
        cm.load("hf-hub:me/depth-student")


def test_a_network_that_is_not_ours_is_refused_by_its_file(hub: Hub) -> None:
    hub.commit("me/strange", {CARD: b'{"architectures": ["ViT"]}', WEIGHTS: b""})
    with pytest.raises(ExportError, match=r"model\.json is not the card of an exported model: 'architectures' is not"):
        cm.load("hf-hub:me/strange")


def test_a_missing_package_is_one_sentence(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"needs the package huggingface_hub \(pip install 'crossmodal-transfer\[hub\]'"):
        cm.load("hf-hub:me/depth-student")
