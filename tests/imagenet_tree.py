"""Generated images in trees of JPEG files and in Parquet files, as ImageNet is distributed, and unusual images."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def make_picture(width: int, height: int, seed: int, *, noise: int = 24) -> NDArray[np.uint8]:
    """Make a smooth pattern of colours with noise, which codecs and filters change. Shape: (height, width, 3)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return (smooth + generator.integers(-noise, noise + 1, smooth.shape)).clip(0, 255).astype(np.uint8)


def encode(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def make_jpeg(width: int = 40, height: int = 40, seed: int = 1) -> bytes:
    return encode(Image.fromarray(make_picture(width, height, seed)))


def make_unusual_images() -> dict[str, bytes]:
    """Make images of unusual sizes and modes, under file names that say what is unusual."""
    images = {
        f"{width}x{height}.JPEG": make_jpeg(width, height, seed)
        for seed, (width, height) in enumerate(
            [(500, 375), (333, 500), (37, 36), (36, 37), (31, 33), (7, 5), (300, 9), (2, 90), (1, 40), (40, 1), (1, 1)]
        )
    }
    plain = Image.fromarray(make_picture(75, 53, 100))
    images |= {f"{mode}.JPEG": encode(plain.convert(mode)) for mode in ("L", "CMYK", "YCbCr")}
    images["plain.JPEG"] = encode(plain)
    images["progressive.JPEG"] = encode(plain, progressive=True, quality=60)
    images["subsampled.JPEG"] = encode(plain, subsampling=0)
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        images[f"orientation{orientation}.JPEG"] = encode(plain, exif=exif)
    images["damaged_exif.JPEG"] = encode(plain, exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
    for mode in ("RGBA", "LA", "P", "1", "I;16"):
        image = plain.convert("I" if mode == "I;16" else mode)
        image = image.point(lambda level: level * 200).convert(mode) if mode == "I;16" else image
        images[f"png_{mode.replace(';', '')}.JPEG"] = encode(image, "PNG")
    images["transparent.png"] = encode(plain.convert("P"), "PNG", transparency=bytes(range(256)))
    return images


def write_tree(folder: Path, samples: Iterable[tuple[str, str, bytes]]) -> None:
    """Write the file CLASS/NAME below the folder for each (class, name, content)."""
    for wnid, name, content in samples:
        (folder / wnid).mkdir(parents=True, exist_ok=True)
        (folder / wnid / name).write_bytes(content)


def generate_samples(classes: int, each: int) -> list[tuple[str, str, bytes]]:
    """Make small images, with one pattern for each class. Return (class, name, content) in the order of the classes."""
    samples = []
    for number in range(classes):
        for sample in range(each):
            generator = np.random.default_rng((number, sample))
            width, height = generator.integers(36, 60, 2)
            pixels = make_picture(int(width), int(height), number, noise=0).astype(np.int64)
            pixels += generator.integers(-100, 101, pixels.shape)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            samples.append((f"n{number:08d}", f"image_{sample:08d}.JPEG", encode(image, quality=80)))
    return samples


def write_shards(folder: Path, samples: list[tuple[str, int, bytes]], *, shards: int = 3, rows: int = 100) -> None:
    """Write files `validation-*.parquet` of (name, label, content), with `rows` rows in each row group."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    each = -(-len(samples) // shards)
    for number in range(shards):
        part = samples[number * each : (number + 1) * each]
        table = pyarrow.table(
            {
                "image": pyarrow.array([{"bytes": content, "path": name} for name, _, content in part], image),
                "label": pyarrow.array([label for _, label, _ in part], pyarrow.int64()),
            }
        )
        parquet.write_table(table, folder / f"validation-{number:05d}-of-{shards:05d}.parquet", row_group_size=rows)
