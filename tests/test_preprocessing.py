"""`eval_transform`: what it takes, what it makes of it, and what it refuses instead of making nonsense of it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagenet_tree import encode, make_picture
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import transforms

import pyramidzoo
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data._decoding import Decoder
from pyramidzoo.data.transforms import Normalize, eval_transform
from pyramidzoo.errors import UsageError

COLOUR = Preprocessing((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Preprocessing((1, 28, 28), (0.1307,), (0.3081,))
LARGE = Preprocessing((3, 64, 64), COLOUR.mean, COLOUR.std, resize=72, crop=64, interpolation="bicubic")
EIGHT_BITS = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
MORE_BITS = ["I", "I;16", "I;16B", "I;16L", "F"]


def size_of(preprocessing: Preprocessing) -> tuple[int, int]:
    return (90, 75) if preprocessing.resize else preprocessing.input_size[1:]


def image_of(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture in any 8-bit mode; where Pillow does not convert to it, its bytes are taken as they are."""
    rgb = Image.fromarray(make_picture(*size, 3))
    if mode in ("La", "RGBa"):
        return rgb.convert("RGBA" if mode == "RGBa" else "LA").convert(mode)
    if mode == "PA":
        return rgb.convert("P").convert("PA")
    if mode == "LAB":
        return Image.frombytes("LAB", rgb.size, rgb.tobytes())
    image = rgb.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(make_picture(*size, 4)[:, :, 0]))
    return image


def decoded(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """What evaluation makes of it: its decoder, then its normalisation."""
    pixels = Decoder(preprocessing, tensor_resize=False)(encode(image, "PNG"), "the image")
    return Normalize(preprocessing)(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])  # what PNG can hold
@pytest.mark.parametrize("preprocessing", [COLOUR, LARGE], ids=["fixed", "resized"])
def test_every_mode_becomes_what_evaluation_makes_of_it(preprocessing: Preprocessing, mode: str) -> None:
    image = image_of(mode, size_of(preprocessing))
    assert torch.equal(eval_transform(preprocessing)(image), decoded(image, preprocessing))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_files_of_jpeg_too(mode: str) -> None:
    content = encode(image_of(mode, (90, 75)), "JPEG")
    pixels = Decoder(LARGE, tensor_resize=False)(content, "the image")
    expected = Normalize(LARGE)(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
    assert torch.equal(eval_transform(LARGE)(Image.open(io.BytesIO(content))), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("preprocessing", [COLOUR, GREY, LARGE], ids=["colour", "grey", "resized"])
@pytest.mark.parametrize("mode", EIGHT_BITS)
def test_modes_of_eight_bits_are_converted_by_pillow(mode: str, preprocessing: Preprocessing) -> None:
    image = image_of(mode, size_of(preprocessing))
    # Pillow converts these two to RGB only, and that one to LA
    between = {"LAB": "RGB", "La": "LA"}.get(mode, mode)
    wanted = image.convert(between).convert("RGB" if preprocessing.input_size[0] == 3 else "L")
    before = image.tobytes()
    plain = [transforms.Resize(72, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(64)]
    steps = [
        *(plain if preprocessing.resize else []),
        transforms.ToTensor(),
        transforms.Normalize(preprocessing.mean, preprocessing.std),
    ]
    assert torch.equal(eval_transform(preprocessing)(image), transforms.Compose(steps)(wanted))
    assert (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["one colour", "all colours"])
def test_transparent_palettes(transparency: int | bytes) -> None:
    image = image_of("P", (32, 32))
    opaque = eval_transform(COLOUR)(image)
    image.info["transparency"] = transparency
    assert torch.equal(eval_transform(COLOUR)(image), opaque)


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY, LARGE], ids=["colour", "grey", "resized"])
@pytest.mark.parametrize("mode", MORE_BITS)
def test_more_than_eight_bits_are_refused(mode: str, preprocessing: Preprocessing) -> None:
    """Pillow would cut off what is above 255, and a picture of 16 bits would be white."""
    image = Image.new(mode, size_of(preprocessing), 300)
    assert set(image.convert("L").tobytes()) == {255}
    with pytest.raises(UsageError, match=rf"Pillow's mode {mode}: .* scale the values to 0 to 255 first"):
        eval_transform(preprocessing)(image)


def test_the_way_out_of_sixteen_bits_works() -> None:
    levels = np.arange(784, dtype=np.uint16).reshape(28, 28) * 83  # up to 64,989
    image = Image.fromarray(levels)
    assert image.mode == "I;16"
    scaled = Image.fromarray((np.asarray(image) / 257).round().astype("uint8"))  # as the message says
    found = eval_transform(GREY)(scaled) * GREY.std[0] + GREY.mean[0]
    # a rounding to 1/255 is off by at most half of it; the rest is the arithmetic in float32
    assert (found[0] - torch.from_numpy(levels / 65535)).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("size", "preprocessing", "says"),
    [
        ((640, 480), COLOUR, r"480x640 pixels \(height x width\), and these weights .* of 32x32"),
        ((32, 33), COLOUR, "33x32"),
        ((31, 32), COLOUR, "32x31"),
        ((32, 32), GREY, "32x32 .* of 28x28"),
    ],
)
def test_another_size_is_refused_or_resized(size: tuple[int, int], preprocessing: Preprocessing, says: str) -> None:
    image = Image.fromarray(make_picture(*size, 1))
    pixels = np.asarray(image.convert("L") if preprocessing is GREY else image)
    for form in (image, pixels, torch.from_numpy(pixels.copy()) if pixels.ndim == 2 else image):
        with pytest.raises(UsageError, match=rf"{says}.*resize=True"):
            eval_transform(preprocessing)(form)
    side = preprocessing.input_size[1]
    reference = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),  # Pillow's, which is antialiased
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    expected = reference(image.convert("L") if preprocessing is GREY else image)
    for form in (image, pixels):
        assert torch.equal(eval_transform(preprocessing, resize=True)(form), expected)


def test_resizing_is_torchvisions_for_all_shapes() -> None:
    transform = eval_transform(COLOUR, resize=True)
    plain = transforms.Compose(
        [
            transforms.Resize(32, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(COLOUR.mean, COLOUR.std),
        ]
    )
    dice = np.random.default_rng(0)
    for seed, (width, height) in enumerate([*dice.integers(1, 200, (40, 2)).tolist(), (1, 1), (1, 90), (33, 32)]):
        image = Image.fromarray(make_picture(width, height, seed))
        assert torch.equal(transform(image), plain(image)), (width, height)


def test_networks_of_other_shapes_than_squares() -> None:
    wide = Preprocessing((3, 20, 30), COLOUR.mean, COLOUR.std)
    for size in [(30, 20), (64, 20), (30, 90), (400, 300), (7, 11)]:
        image = Image.fromarray(make_picture(*size, 1))
        assert eval_transform(wide, resize=True)(image).shape == (3, 20, 30)
    white = eval_transform(wide, resize=True)(Image.new("RGB", (301, 47), "white"))
    assert torch.equal(white, eval_transform(wide)(Image.new("RGB", (30, 20), "white")))  # nothing was filled up


@pytest.mark.parametrize("preprocessing", [COLOUR, LARGE], ids=["fixed", "resized"])
def test_resize_changes_nothing_where_nothing_is_to_be_resized(preprocessing: Preprocessing) -> None:
    image = image_of("RGB", size_of(preprocessing))
    assert torch.equal(eval_transform(preprocessing, resize=True)(image), eval_transform(preprocessing)(image))


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY, LARGE], ids=["colour", "grey", "resized"])
def test_arrays_and_tensors_are_the_same_as_images(preprocessing: Preprocessing) -> None:
    image = image_of("L" if preprocessing is GREY else "RGB", size_of(preprocessing))
    array = np.array(image)
    channels_last = array.reshape(*array.shape[:2], -1)
    tensor = torch.from_numpy(channels_last).permute(2, 0, 1)
    expected = eval_transform(preprocessing)(image)
    forms: list[Any] = [array, channels_last, tensor, tensor.contiguous(), channels_last[::-1][::-1]]
    if preprocessing is GREY:
        forms.append(tensor[0])
    if preprocessing is not LARGE:
        forms += [array.astype(np.float32) / np.float32(255), tensor.float() / 255]
    before = array.copy()
    for form in forms:
        found = eval_transform(preprocessing)(form)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    assert np.array_equal(array, before)
    if preprocessing is not LARGE:
        for wide in (array / 255, (tensor.double() / 255).requires_grad_()):
            found = eval_transform(preprocessing)(wide)
            assert (found.dtype, found.requires_grad) == (torch.float32, False)
            assert torch.equal(found, expected)


def zeros(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.zeros(shape, dtype)


REFUSED: list[tuple[Any, Preprocessing, str]] = [
    (zeros(3, 32, 32), COLOUR, r"array of the shape \(3, 32, 32\) has its channels first.*moveaxis"),
    (torch.zeros(32, 32, 3), COLOUR, r"tensor of the shape \(32, 32, 3\) has its channels last.*permute"),
    (zeros(32, 32), COLOUR, r"array of the shape \(32, 32\) has 1 channel, and these weights read 3; give a Pillow"),
    (torch.zeros(1, 32, 32), COLOUR, "tensor .* has 1 channel, and these weights read 3"),
    (zeros(32, 32, 4), COLOUR, "has 4 channels, and these weights read 3"),
    (zeros(28, 28, 3), GREY, "has 3 channels, and these weights read 1"),
    (zeros(5, 32, 32, 3), COLOUR, "is not an image; .* one after the other"),
    (torch.zeros(5, 3, 32, 32), COLOUR, "is not an image; .* one after the other"),
    (zeros(32), COLOUR, "is not an image; an array has the shape"),
    (zeros(0, 32, 3), COLOUR, "is not an image; an array has the shape"),
    (zeros(32, 32, 3, dtype=np.int64), COLOUR, "has the type int64; give uint8 values from 0 to 255, or floats"),
    (zeros(32, 32, 3, dtype=np.uint16), COLOUR, "has the type uint16"),
    (zeros(32, 32, 3, dtype=bool), COLOUR, "has the type bool"),
    (zeros(32, 32, 3, dtype=np.complex64), COLOUR, "has the type complex64"),
    (torch.zeros(3, 32, 32, dtype=torch.int32), COLOUR, r"has the type torch\.int32"),
    (np.full((32, 32, 3), 255.0), COLOUR, "has floats from 255 to 255; they must be from 0 to 1.*divide"),
    (torch.full((3, 32, 32), -2.1), COLOUR, r"has floats from -2\.1 to -2\.1; .* not normalised yet"),
    (np.full((32, 32, 3), np.nan), COLOUR, "has floats from nan to nan"),
    (np.zeros((90, 75, 3), np.float32), LARGE, "cannot be resized and cropped .* give a Pillow image, or uint8"),
    (torch.zeros(3, 40, 40), COLOUR, r"has 40x40 pixels .*32x32"),
    (Image.new("RGB", (0, 32)), COLOUR, "the image is empty: it has 0x32"),
    ("photo.png", COLOUR, r"the str photo\.png is not an image; give a Pillow image \(PIL\.Image\.open reads a file\)"),
    (Path("photo.png"), COLOUR, r"Path photo\.png is not an image"),
    (None, COLOUR, "an object of the type NoneType is not an image"),
    ([[0]], COLOUR, "an object of the type list is not an image"),
]


@pytest.mark.parametrize(("image", "preprocessing", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_is_no_image_is_refused_by_name(image: Any, preprocessing: Preprocessing, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        eval_transform(preprocessing)(image)
    if "pixels" not in message:
        with pytest.raises(UsageError, match=message):
            eval_transform(preprocessing, resize=True)(image)


def test_floats_are_not_resized() -> None:
    with pytest.raises(UsageError, match=r"tensor of the shape \(3, 40, 40\) cannot be resized and cropped"):
        eval_transform(COLOUR, resize=True)(torch.zeros(3, 40, 40))


def test_networks_of_more_channels_than_pillow_has() -> None:
    five = Preprocessing((5, 8, 8), (0.5,) * 5, (0.25,) * 5)
    assert eval_transform(five)(zeros(8, 8, 5)).eq(-2).all()
    with pytest.raises(UsageError, match="read 5 channels, which no Pillow image has"):
        eval_transform(five)(Image.new("RGB", (8, 8)))


def test_a_model_knows_its_preprocessing() -> None:
    entry = load_manifest().find("wrn_16_1.digits_zoo")
    model = pyramidzoo.create_model("wrn_16_1", weights="digits")
    image = image_of("RGB", (8, 8))
    expected = eval_transform(entry.preprocessing)(image)
    for source in (model, pyramidzoo.optimize(model.eval())):
        assert torch.equal(eval_transform(source)(image), expected)
    with pytest.raises(UsageError, match="this model has no weights, so it is not known how to prepare images"):
        eval_transform(pyramidzoo.create_model("wrn_16_1"))
    for other in (nn.Linear(2, 2), "wrn_16_1"):
        with pytest.raises(UsageError, match=r"neither a preprocessing nor a model .* give model\.preprocessing"):
            eval_transform(other)  # type: ignore[arg-type]


def test_a_transform_goes_to_other_processes() -> None:
    for options in ({}, {"resize": True}):
        transform = eval_transform(COLOUR, **options)
        image = image_of("P", (32, 32))
        assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))
