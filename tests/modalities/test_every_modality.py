"""What every entry of the catalogue of modalities must do, none of them named."""

import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import version

import pytest
import torch
from torch.overrides import TorchFunctionMode

from modalities import MODALITIES, CropBox, DecodeError, Modality
from modalities.common.random import generator
from modalities.synthetic.scene import SHAPES, Scene, draw_scene

NAMES = MODALITIES.names()
PICTURES = [name for name in NAMES if "height" in MODALITIES.options(name)]
SENSORS = [name for name in NAMES if not MODALITIES.get(name)().classes]  # others are targets, used as they are
WINDOW = CropBox(top=0.1, left=0.2, height=0.6, width=0.7, flip=True, start=0.3)


@pytest.fixture(params=NAMES)
def modality(request) -> Modality:
    return MODALITIES.get(request.param)()


@pytest.fixture(params=SENSORS)
def sensor(request) -> Modality:
    return MODALITIES.get(request.param)()


def adapted_batch(modality: Modality, count: int = 4) -> torch.Tensor:
    return torch.stack([modality.adapt(modality.render(draw_scene(generator(i))), WINDOW) for i in range(count)])


def draws_of(modality: Modality, count: int = 4) -> torch.Tensor:
    return torch.stack([modality.draw(generator("draws", i)) for i in range(count)])


class Copies(TorchFunctionMode):
    """Counts tensors that reach a device from the host's memory, for which a GPU waits until its queue is done."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        moved = func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.type_as) and args[0].device.type == "cpu"
        self.count += (made or moved) and result.device.type != "cpu"
        return result


def test_there_is_something_to_test():
    assert len(NAMES) >= 6 and len(PICTURES) >= 5 and len(SENSORS) >= 5


def test_the_catalogue_is_read_without_torch():
    code = (
        "import sys; from modalities import MODALITIES; [MODALITIES.options(n) for n in MODALITIES.names()]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name):
    assert [option.name for option in MODALITIES.options(name).values() if not option.comment] == []


def test_stored_options_exist(modality):
    assert set(modality.stored) <= set(vars(modality))


def test_signals_survive_a_round_trip(modality):
    signal = modality.render(draw_scene(generator(3)))

    again = modality.decode(modality.encode(signal))

    assert again.shape == signal.shape and again.dtype == torch.float32
    assert (again - signal).abs().mean() < 0.02 * (signal.max() - signal.min())  # JPEG is the coarsest


@pytest.mark.parametrize("window", [CropBox(), WINDOW, CropBox(top=0.999, left=0.999, height=0.001, width=0.001)])
def test_a_look_has_the_stated_shape(modality, window):
    adapted = modality.adapt(modality.render(draw_scene(generator(0))), window)

    assert adapted.shape == modality.shape and torch.isfinite(adapted).all()


@pytest.mark.parametrize("size", [2, 37, 64])
def test_any_stored_size_will_do(modality, size):
    adapted = modality.adapt(modality.render(draw_scene(generator(0), size=size)), WINDOW)

    assert adapted.shape == modality.shape


@pytest.mark.parametrize(("height", "width"), [(48, 64), (32, 24)])
@pytest.mark.parametrize("name", PICTURES)
def test_a_view_of_pictures_need_not_be_square(name, height, width):
    modality = MODALITIES.get(name)(height=height, width=width)
    scene = draw_scene(generator(0), size=60, width=80)
    signal = modality.decode(modality.encode(modality.render(scene)))
    assert signal.shape[1:] == (60, 80) and modality.shape[1:] == (height, width)

    batch, draws = modality.adapt(signal, WINDOW)[None], modality.draw(generator(1))[None]
    augmented = modality.augment(batch, draws)

    assert batch.shape == augmented.shape == modality.normalise(augmented).shape == (1, *modality.shape)
    assert modality.picture(augmented[0]).shape == (3, height, width)


@pytest.mark.parametrize("name", PICTURES)
def test_an_exported_view_is_built_again_from_its_options(name):
    for options in ({"height": 24, "width": 32}, {"size": 24}, {}):
        modality = MODALITIES.get(name)(**options)
        assert MODALITIES.get(name)(**asdict(modality)) == modality


def test_draws_depend_on_the_generator_alone(sensor):
    one, again, other = (sensor.draw(generator(i)) for i in (1, 1, 2))

    assert torch.equal(one, again) and one.shape == other.shape
    assert not torch.equal(one, other)


def test_augmentation_is_repeatable_and_edits_nothing(modality):
    batch, draws = adapted_batch(modality), draws_of(modality)
    before, state = batch.clone(), torch.get_rng_state()

    once = modality.augment(batch, draws)

    assert torch.equal(once, modality.augment(batch, draws))
    assert torch.equal(batch, before) and torch.equal(torch.get_rng_state(), state)
    assert once.shape == batch.shape and torch.isfinite(once).all()


def test_sensors_alone_are_augmented(modality):
    off = {name: value for name, value in vars(modality).items() if value == 0 and name not in modality.stored}
    modality = replace(modality, **{name: 1 if type(value) is int else 0.5 for name, value in off.items()})
    batch = adapted_batch(modality)

    assert torch.equal(modality.augment(batch, draws_of(modality)), batch) == bool(modality.classes)


def test_augmentation_of_a_row_does_not_depend_on_the_others(modality):
    batch, draws = adapted_batch(modality), draws_of(modality)
    order = torch.tensor([2, 0, 3, 1])

    together = modality.augment(batch, draws)

    scale = batch.abs().max().item()  # products of another batch size may round otherwise
    alone = torch.cat([modality.augment(batch[i : i + 1], draws[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5 * scale)
    shuffled = modality.augment(batch[order], draws[order])
    torch.testing.assert_close(shuffled, together[order], rtol=1e-5, atol=1e-5 * scale)


def test_nothing_is_copied_to_the_device_for_each_batch(modality):
    if version("kornia").startswith("0.8"):
        pytest.skip("kornia 0.8 copies constants of its own")
    batch, draws = adapted_batch(modality).to("meta"), draws_of(modality).to("meta")  # a device of shapes alone
    modality.normalise(modality.augment(batch, draws))  # what is kept may be copied once

    with Copies() as copies:
        modality.normalise(modality.augment(batch, draws))

    assert copies.count == 0
    with copies:
        batch.new_tensor([1.0]), torch.ones(1).to(batch)
    assert copies.count == 2


def test_normalised_numbers_suit_an_encoder(sensor):
    batch = adapted_batch(sensor)
    before = batch.clone()

    eaten = sensor.normalise(batch)

    assert torch.equal(batch, before) and eaten.shape == batch.shape
    assert eaten.mean().abs() < 3 and 0.1 < eaten.std() < 3


def test_pictures_can_be_shown(modality):
    batch, draws = adapted_batch(modality), draws_of(modality)

    for sample in (batch[0], modality.augment(batch, draws)[0], torch.zeros_like(batch[0])):
        picture = modality.picture(sample)
        assert picture.shape[0] == 3 and picture.min() >= 0 and picture.max() <= 1


def test_every_class_of_scene_sounds_or_looks_different(modality):
    base = draw_scene(generator(4))

    def render(shape: str) -> torch.Tensor:
        solid = base.solids[0]
        solid = type(solid)(shape, solid.x, solid.y, solid.radius, solid.distance_m, solid.colour)
        return modality.render(Scene((solid,), base.wall_m, base.wall_colour, base.light))

    signals = torch.stack([render(shape) for shape in SHAPES])
    apart = torch.cdist(signals.flatten(1), signals.flatten(1)) + torch.eye(len(SHAPES)) * 1e9

    assert apart.min() > 1
    assert torch.equal(render(SHAPES[0]), signals[0])


@pytest.mark.parametrize(
    "payload", [b"", b"\0", b"garbage " * 200, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY"]
)
def test_garbage_is_refused(modality, payload):
    with pytest.raises(DecodeError):
        modality.decode(payload)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.99])
def test_a_file_cut_short_is_refused(modality, share):
    payload = modality.encode(modality.render(draw_scene(generator(0))))

    with pytest.raises(DecodeError):
        modality.decode(payload[: int(share * len(payload))])


def test_bytes_of_another_sensor_are_refused(modality):
    others = [MODALITIES.get(name)() for name in SENSORS]  # but a label map is a grey picture too
    others = [other for other in others if other.field != modality.field]
    # two of one number a pixel may be stored alike
    others = [other for other in others if "npy" not in {*modality.extensions} & {*other.extensions}]
    assert others

    for other in others:
        with pytest.raises(DecodeError):
            modality.decode(other.encode(other.render(draw_scene(generator(0)))))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(modality):
    batch, draws = adapted_batch(modality), draws_of(modality)

    here = modality.normalise(modality.augment(batch, draws))
    there = modality.normalise(modality.augment(batch.cuda(), draws.cuda())).cpu()

    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)  # float32 sums in another order
