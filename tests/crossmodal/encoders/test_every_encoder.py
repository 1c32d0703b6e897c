"""What every entry of crossmodal/encoders promises, and what some promise on their own."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder, Features
from crossmodal.encoders.common.picture import choose, finish

NAMES = ENCODERS.names()
LINEAR = ["cifar_mobilenet", "cifar_wrn"]  # their stages end without a ReLU
LIBRARIES = ["timm", "transformers", "open_clip", "torchvision"]  # networks by name, whose stages are the library's
SHAPES = [(1, 32, 32), (2, 32, 48), (3, 64, 48)]


def build(name: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 5, **options: Any) -> Encoder:
    try:
        entry = ENCODERS.get(name)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    return entry(shape, classes, **options)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def settled(encoder: Encoder, channels: int = 3) -> Encoder:
    """In eval mode, on the statistics of one batch: with those of construction a deep network answers next to 0."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    encoder(noise(8, channels, 32, 32))
    return encoder.eval()


def tensors(encoder: Encoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def test_there_are_encoders():
    assert {"convnet", "resnet", "mobilenet", "efficientnet", "efficientnet_lite", "timm", "cifar_resnet"} <= set(NAMES)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_sizes_of_the_spec(name: str, shape: tuple[int, ...]):
    encoder = build(name, shape)
    features = encoder(noise(2, *shape))
    assert encoder.spec.classes == 5 and encoder.spec.maps
    assert features.embedding.shape == (2, encoder.spec.dim)
    assert features.logits.shape == (2, 5)
    assert tuple(tuple(item.shape) for item in features.maps) == tuple((2, *size) for size in encoder.spec.maps)
    assert (features.stem is None) == (encoder.spec.stem is None)
    if features.stem is not None:
        assert tuple(features.stem.shape) == (2, *encoder.spec.stem)


@pytest.mark.parametrize("name", NAMES)
def test_maps_that_end_in_a_relu_are_their_preactivations_without_what_is_below_zero(name: str):
    encoder = build(name)
    features = encoder(noise(2, 3, 32, 32))
    assert len(features.preactivations) == (len(features.maps) if encoder.spec.preactivations else 0)
    for before, after in zip(features.preactivations, features.maps, strict=False):
        assert (before < 0).any() and before.shape == after.shape
        assert torch.equal(before.relu(), after) or (name in LINEAR and (after < 0).any())


@pytest.mark.parametrize("name", LINEAR)
def test_maps_without_a_relu_still_have_preactivations(name: str):
    features = build(name)(noise(2, 3, 32, 32))
    assert features.preactivations and all((item < 0).any() for item in features.maps)


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str, classes: int):
    encoder = build(name, classes=classes)
    features = encoder(noise(4, 3, 32, 32))
    loss = features.embedding.square().sum() if features.logits is None else features.logits.square().sum()
    loss.backward()
    assert [key for key, weight in encoder.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in encoder.parameters())
    assert dict(encoder.trunk.named_parameters())[encoder.stem].grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_in_eval_mode_a_sample_does_not_see_its_batch(name: str):
    encoder, batch = settled(build(name)), noise(3, 3, 32, 32)
    together, alone = encoder(batch), encoder(batch[1:2])
    assert together.embedding.std(0).max() > 0.01  # there is something to compare
    torch.testing.assert_close(together.logits[1:2], alone.logits, atol=1e-3, rtol=1e-3)  # other kernels, other sums
    torch.testing.assert_close(together.embedding[1:2], alone.embedding, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_embedding_depends_on_every_channel(name: str):
    encoder, batch = settled(build(name, (2, 32, 32)), 2), noise(1, 2, 32, 32)
    plain = encoder(batch).embedding
    for louder in ([2.0, 1.0], [1.0, 2.0]):
        other = encoder(batch * torch.tensor(louder)[:, None, None]).embedding
        assert (plain - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_without_classes_there_are_no_logits_and_no_classifier(name: str):
    encoder = build(name, classes=0)
    assert encoder(noise(2, 3, 32, 32)).logits is None and encoder.spec.classes == 0
    assert [key for key in encoder.trunk.state_dict() if key.startswith(encoder.classifier)] == []


@pytest.mark.parametrize("name", NAMES)
def test_stem_and_classifier_name_weights_of_the_trunk(name: str):
    encoder = build(name, (2, 32, 32))
    assert encoder.trunk.state_dict()[encoder.stem].shape[1] == 2
    weights = [value for key, value in encoder.trunk.state_dict().items() if key.startswith(encoder.classifier)]
    assert weights[-1].shape[0] == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name: str):
    first, second = tensors(build(name)), tensors(build(name))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    other = ENCODERS.get(name)((3, 32, 32), 5)
    assert not torch.equal(other.trunk.state_dict()[other.stem], first[f"trunk.{other.stem}"])


@pytest.mark.parametrize("name", NAMES)
def test_finishing_draws_nothing_and_changes_nothing(name: str):
    encoder = build(name)
    before, drawn = tensors(encoder), torch.get_rng_state()
    assert finish(encoder, (3, 32, 32)) == encoder.spec
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in tensors(encoder).items())
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_in_training_draws_nothing_by_default(name: str):
    encoder, drawn = build(name), torch.get_rng_state()
    encoder(noise(2, 3, 32, 32))
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_picture_is_refused(name: str):
    with pytest.raises(ValueError, match=r"expected samples of shape \(channels, height, width\), got \(16000,\)"):
        build(name, (16000,))
    with pytest.raises(ValueError, match="classes must be at least 0, got -1"):
        build(name, classes=-1)


def reached(output: Tensor, encoder: Encoder) -> set[str]:
    if not output.requires_grad:
        return set()
    weights = dict(encoder.named_parameters())
    found = torch.autograd.grad(output.sum(), list(weights.values()), retain_graph=True, allow_unused=True)
    return {key for key, gradient in zip(weights, found, strict=True) if gradient is not None}


def assert_same_features(ours: Features, theirs: Features) -> None:
    assert torch.equal(ours.embedding, theirs.embedding)
    for some, others in ((ours.maps, theirs.maps), (ours.preactivations, theirs.preactivations)):
        assert all(map(torch.equal, some, others)) and len(some) == len(others)
    for one, other in ((ours.logits, theirs.logits), (ours.stem, theirs.stem)):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_each_map_is_left_once_and_in_order_where_stages_can_be_taken_apart(name: str):
    encoder, left = build(name), []

    def leave(picture: Tensor) -> Tensor:
        left.append(picture)
        return picture

    features = encoder(noise(2, 3, 32, 32), leave)
    assert [id(item) for item in left] == [id(item) for item in features.maps if encoder.leaves]
    encoder, left = settled(encoder), []
    assert_same_features(encoder(noise(2, 3, 32, 32), leave), encoder(noise(2, 3, 32, 32)))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LIBRARIES])
def test_stages_taken_apart_say_the_same_and_share_no_weight(name: str):
    encoder, batch = settled(build(name, classes=0)), noise(2, 3, 32, 32)
    features = encoder(batch, lambda picture: picture.detach().clone())
    assert_same_features(features, encoder(batch))
    found = [reached(item, encoder) for item in (*features.maps, features.embedding)]
    assert all(found[:-1]) and encoder.ends_in_map == (found[-1] == set())
    assert sorted(key for keys in found for key in keys) == sorted(key for key, _ in encoder.named_parameters())


def test_all_encoders_but_those_of_libraries_can_be_taken_apart():
    assert all(ENCODERS.get(name).leaves for name in NAMES if name not in LIBRARIES)


def test_every_option_has_a_default_and_a_comment():
    options = [(name, option) for name in NAMES for option in ENCODERS.options(name).values()]
    assert options
    assert [(name, option.name) for name, option in options if option.default is None or not option.comment] == []


def test_an_unknown_choice_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="depth must be one of 18, 34, got 19"):
        choose("depth", 19, {18: "a", 34: "b"})


def test_convnet_is_as_wide_and_deep_as_asked():
    assert build("convnet", (1, 64, 96)).spec.maps == ((32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3))
    assert build("convnet", (1, 64, 64), width=8, stages=2).spec.maps == ((8, 16, 16), (16, 8, 8))


@pytest.mark.parametrize("side", [16, 128])
def test_convnet_takes_small_and_large_pictures(side: int):
    assert build("convnet", (1, side, side)).spec.dim == 256


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", nn.Identity)])
def test_convnet_has_the_norm_asked_for(norm: str, kind: type):
    kinds = {type(module) for module in build("convnet", width=8, norm=norm).modules()}
    assert kinds & {nn.BatchNorm2d, nn.GroupNorm, nn.Identity} == {kind}


def test_convnet_without_batch_norm_trains_on_one_sample():
    encoder = build("convnet", (1, 16, 16), norm="group")
    encoder(noise(1, 1, 16, 16)).logits.sum().backward()
    assert encoder.trunk.state_dict()[encoder.stem].isfinite().all()


def test_convnet_tells_stripes_apart_after_a_few_steps():
    encoder = build("convnet", (1, 16, 16), 2, width=8)
    label = torch.arange(32) % 2
    stripes = torch.sin(torch.arange(16) * 1.5).expand(16, 16)
    batch = torch.stack([stripes.T if row else stripes for row in label])[:, None] + 0.3 * noise(32, 1, 16, 16)
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimiser.zero_grad()
        nn.functional.cross_entropy(encoder(batch).logits, label).backward()
        optimiser.step()
    encoder.eval()
    assert (encoder(batch).logits.argmax(1) == label).float().mean() > 0.95


def test_convnet_refuses_widths_and_stages_it_cannot_have():
    with pytest.raises(ValueError, match="width must be even and at least 2, got 7"):
        build("convnet", width=7)
    with pytest.raises(ValueError, match="stages must be from 1 to 16, got 0"):
        build("convnet", stages=0)


@pytest.mark.parametrize("depth", [18, 50])  # two kinds of blocks
def test_resnet_agrees_with_torchvision_s_own_forward(depth: int):
    encoder, batch = settled(build("resnet", depth=depth)), noise(2, 3, 32, 32)
    torch.testing.assert_close(encoder(batch).logits, encoder.trunk(batch), atol=1e-5, rtol=1e-5)
    assert encoder.spec.preactivations


def test_stems_enter_the_first_stage():
    first = {
        "resnet": lambda trunk, stem: trunk.layer1(stem),
        "mobilenet": lambda trunk, stem: trunk.features[1](stem),
        "efficientnet": lambda trunk, stem: trunk.features[1](stem),
        "efficientnet_lite": lambda trunk, stem: trunk._blocks[0](stem),
    }
    for name, stage in first.items():
        encoder = settled(build(name, **({"size": "large"} if name == "mobilenet" else {})))
        features = encoder(noise(2, 3, 32, 32))
        torch.testing.assert_close(stage(encoder.trunk, features.stem), features.maps[0], atol=1e-5, rtol=1e-5)


def test_mobilenet_small_whose_stem_gives_the_first_map_tells_no_other():
    encoder = settled(build("mobilenet", size="small"))
    batch = noise(2, 3, 32, 32)
    assert encoder.spec.stem is None
    assert torch.equal(encoder(batch).maps[0], encoder.trunk.features[0](batch))


def test_encoders_of_plain_stages_tell_stem_and_preactivations():
    specs = {name: build(name).spec for name in ("convnet", "resnet", "efficientnet", "efficientnet_lite", "timm")}
    assert [name for name, spec in specs.items() if spec.stem] == ["convnet", "resnet", "efficientnet",
                                                                   "efficientnet_lite"]  # fmt: skip
    assert [name for name, spec in specs.items() if spec.preactivations] == ["convnet", "resnet"]


def test_resnet_with_the_small_stem_keeps_the_resolution():
    assert build("resnet", stem="small").spec.maps == ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))


def test_resnet_50_has_the_published_number_of_weights():
    encoder = build("resnet", classes=1000, depth=50)
    assert sum(weight.numel() for weight in encoder.parameters()) == 25_557_032  # torchvision's documentation


@pytest.mark.parametrize(("name", "options"), [("mobilenet", {"size": "large"}), ("efficientnet", {"variant": "v2_s"})])
def test_torchvision_s_variants_agree_with_their_own_forward(name: str, options: dict[str, str]):
    encoder, batch = settled(build(name, **options)), noise(1, 3, 32, 32)
    torch.testing.assert_close(encoder(batch).logits, encoder.trunk(batch), atol=1e-5, rtol=1e-5)
    sides = [size[1] for size in encoder.spec.maps]
    assert sides == [16, 8, 4, 2, 1]


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 45, 63)], ids=str)
def test_lite0_agrees_with_timm_s_on_the_same_weights(shape: tuple[int, ...]):
    """Another implementation as the oracle: padding of even and odd sizes, epsilon, order of layers."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import timm

    ours, theirs = build("efficientnet_lite", shape).eval(), timm.create_model("tf_efficientnet_lite0", num_classes=5)
    for buffer in ours.buffers():  # statistics other than 0 and 1, so that epsilon and order show
        if buffer.is_floating_point():
            buffer.uniform_(0.01, 0.1)
    assert len(ours.trunk.state_dict()) == len(theirs.state_dict())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.trunk.state_dict().values(), strict=True)))
    batch = noise(1, *shape).double()  # these statistics amplify rounding, by 1e5
    ours, theirs = ours.double(), theirs.double().eval()
    assert ours(batch).logits.std() > 0.01  # there is something to compare
    torch.testing.assert_close(ours(batch).logits, theirs(batch), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("model", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_timm_s_networks_agree_with_their_own_forward(model: str):
    encoder, batch = settled(build("timm", (1, 64, 64), model=model), 1), noise(1, 1, 64, 64)
    torch.testing.assert_close(encoder(batch).logits, encoder.trunk(batch), atol=1e-5, rtol=1e-5)


def test_timm_names_the_nearest_model():
    with pytest.raises(LookupError, match="timm has no model 'resnet81'; did you mean 'resnet"):
        build("timm", model="resnet81")


def test_timm_says_which_shape_it_does_not_take_and_which_fits():
    with pytest.raises(ValueError, match=r"pictures of shape \(3, 32, 32\): Calculated .*; 299 x 299 fits$"):
        build("timm", (3, 32, 32), model="inception_v3")


def test_timm_refuses_classes_where_there_are_two_classifiers():
    with pytest.raises(ValueError, match="deit_tiny_distilled_patch16_224 does not end in one linear layer"):
        build("timm", model="deit_tiny_distilled_patch16_224")
    assert build("timm", classes=0, model="deit_tiny_distilled_patch16_224").spec.dim == 192


def test_timm_s_convolutional_heads_give_vectors_too():
    encoder = build("timm", classes=0, model="dla46_c")
    assert encoder(noise(2, 3, 32, 32)).embedding.shape == (2, encoder.spec.dim) == (2, 256)


@pytest.mark.parametrize(
    ("name", "options", "channels"),  # of the last layer at each resolution, in the papers' tables
    [
        ("efficientnet", {}, [16, 24, 40, 112, 1280]),
        ("efficientnet_lite", {}, [16, 24, 40, 112, 1280]),
        ("mobilenet", {}, [16, 16, 24, 48, 576]),
        ("mobilenet", {"size": "large"}, [16, 24, 40, 112, 960]),
    ],
)
def test_maps_are_the_last_at_each_resolution(name: str, options: dict[str, str], channels: list[int]):
    assert [size[0] for size in build(name, **options).spec.maps] == channels


@pytest.mark.parametrize(
    ("model", "side", "sizes"),
    [("vit_tiny_patch16_224", 100, "96 or 112"), ("convnext_atto", 66, "64 or 68"),
     ("vit_small_patch14_dinov2", 64, "56 or 70")],
)  # fmt: skip
def test_sizes_whose_last_rows_a_patch_would_not_see_are_refused(model: str, side: int, sizes: str) -> None:
    with pytest.raises(ValueError, match=f"give the view a size of {sizes}$"):
        ENCODERS.get("timm")((3, side, side), 0, model=model)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 40, 64), "a height of 40 is not a multiple of that: the last 8 pixels would be ignored; give the view a "
                      "height of 32 or 48$"),
        ((3, 48, 72), "a width of 72 is not a multiple .* give the view a width of 64 or 80$"),
        ((3, 8, 64), "give the view a height of 16$"),
    ],
)  # fmt: skip
def test_a_height_or_width_that_patches_do_not_divide_is_refused_with_those_that_fit(shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        ENCODERS.get("timm")(shape, 0, model="vit_tiny_patch16_224")


@pytest.mark.parametrize(("model", "side"), [("vit_tiny_patch16_224", 96), ("convnext_atto", 68), ("resnet18", 70)])
def test_sizes_that_are_taken_are_seen_to_the_last_row_and_column(model: str, side: int) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS.get("timm")((3, side, side), 0, model=model).eval()
    picture = torch.rand(1, 3, side, side, requires_grad=True)
    embedding = encoder(picture).embedding
    (seen,) = torch.autograd.grad((embedding * torch.randn_like(embedding)).sum(), picture)
    assert seen[..., -1, :].abs().sum() > 0 and seen[..., -1].abs().sum() > 0


def test_vgg_halves_a_picture_as_often_whichever_side_is_longer() -> None:
    for height, width in ((48, 64), (64, 48)):
        encoder = ENCODERS.get("cifar_vgg")((3, height, width), 0)
        assert encoder.spec.maps[-1][1:] == (height // 8, width // 8)
