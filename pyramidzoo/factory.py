"""Networks by name, with or without weights, and one constructor for each architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints.description import MAX_CLASSES, Description
from pyramidzoo.checkpoints.loading import load_weights, read_weights
from pyramidzoo.checkpoints.safetensors_file import Content
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.files import expand_user_path, find_weights_file, is_path
from pyramidzoo.models import build, model_class, skip_initialisation
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.weights.fetch import fetch


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    **arch: Any,
) -> ImageClassifier:
    """Make a network of the zoo, with random weights or with those of a file.

    The network is on the CPU and in training mode. It turns images (N, in_chans, H, W) into logits
    (N, num_classes).

    Loaded tensors are float32, and a private memory map of their file. The file may be replaced or
    deleted while the network is in use, but nothing may write into it, as `torch.save` to the same
    path does.

    Args:
        name: The architecture's name, as "wrn_28_10".
        weights: What to load: a tag ("cifar10", "cifar10_ferles"), an id
            ("wrn_16_1.cifar10_ferles"), a safetensors file, or a folder with one. A dataset's name
            alone means the default weights for that dataset.
        pretrained: Whether to load the architecture's default weights. It excludes `weights`.
        num_classes: The number of classes; by default that of the weights, or that of the
            architecture. If it is not the weights' own number, the classifier is not loaded but
            starts with random values, and all else is loaded. 0 means no classifier.
        in_chans: The number of channels of the images; by default that of the weights, or 3.
            Weights are not adapted to another number.
        **arch: Arguments of the architecture's class, as `drop_rate`.

    Returns:
        The network.

    Raises:
        UsageError: A name or a tag is unknown, two arguments contradict each other, or the weights
            have another number of channels.
        IntegrityError: The file is damaged, or it is not one of exactly this network.
        UnavailableError: The file cannot be read or downloaded.
        TypeError: An argument is unknown or of a wrong type, or would make another architecture.

    Example:
        >>> model = pyramidzoo.create_model("resnet20", weights="digits").eval()
        >>> logits = model(images)
    """
    if name in load_manifest().entries:
        architecture, tag = name.split(".", 1)
        raise UsageError(f'{name} are weights; load them with create_model("{architecture}", weights="{tag}")')
    row = get_architecture(name)
    if not isinstance(weights, (str, Path, type(None))):
        raise TypeError(f"weights must be a tag, an id or a path, not {type(weights).__name__}")
    if not isinstance(pretrained, bool):
        raise TypeError(f"pretrained is True or False, not {pretrained!r}; weights= names weights")
    if weights is not None and pretrained:
        raise UsageError("weights= and pretrained=True are two ways to say one thing; give one of them")

    if weights is None and not pretrained:
        settings = arch if num_classes is None else {"num_classes": num_classes, **arch}
        return build(row, in_chans=3 if in_chans is None else in_chans, **settings)

    arguments: Mapping[str, Any]
    preprocessing: Preprocessing | None
    if isinstance(weights, Path) or (weights is not None and is_path(weights)):
        path = find_weights_file(expand_user_path(str(weights)))
        _require_safetensors(row, path)
        content = read_weights(path)
        arguments, preprocessing = _read_description(row, content)
    else:
        entry = _find_entry(name, weights)
        _require_channels(entry.preprocessing.input_size[0], in_chans)  # An error should not wait for the download.
        located = fetch(entry)
        content = read_weights(located.path, sha256=located.sha256)
        arguments, preprocessing = entry.arguments, entry.preprocessing
    return assemble(
        row,
        content,
        arguments=arguments,
        preprocessing=preprocessing,
        num_classes=num_classes,
        in_chans=in_chans,
        arch=arch,
    )


def assemble(
    row: Architecture,
    content: Content,
    *,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing | None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    arch: Mapping[str, Any] = MappingProxyType({}),
) -> ImageClassifier:
    """Build a network and load it with the content of a weights file.

    Args:
        row: The architecture.
        content: What `read_weights` returned.
        arguments: The weights' own arguments of the architecture's class.
        preprocessing: How images are prepared for the weights; None if that is not known. Then the
            file's stem says how many channels images have.
        num_classes: As in `create_model`.
        in_chans: As in `create_model`.
        arch: The caller's arguments of the architecture's class. They take precedence over
            `arguments`.

    Returns:
        The network, on the CPU and in training mode.

    Raises:
        UsageError: The weights have another number of channels.
        IntegrityError: The file is not one of exactly this network.
        TypeError: An argument is unknown, or would make another architecture.
        ValueError: An argument has a value that the class does not take.
    """
    channels = _read_channels(row, content) if preprocessing is None else preprocessing.input_size[0]
    _require_channels(channels, in_chans)
    classes = _read_classes(row, content)
    keep_head = num_classes in (None, classes)
    try:
        with skip_initialisation():
            model = build(row, in_chans=channels, num_classes=classes if keep_head else 0, **{**arguments, **arch})
    except (TypeError, ValueError) as error:
        if arch or not arguments:
            raise
        raise IntegrityError(
            f"{content.path}: its metadata do not describe a {row.name}: {error}; convert it again"
        ) from error
    load_weights(model, content, head="require" if keep_head else "drop")
    if not keep_head and num_classes:
        model.reset_classifier(num_classes)
    model.preprocessing = preprocessing
    return model


def list_weights(pattern: str = "*", *, dataset: str | None = None) -> list[str]:
    """List the ids of weights, in the manifest's order.

    Args:
        pattern: A shell pattern for ids, as "wrn*".
        dataset: Only weights for this dataset; None for all.
    """
    return [entry.id for entry in load_manifest().match(pattern) if dataset in (None, entry.dataset)]


def get_weights(weights_id: str) -> WeightsEntry:
    """Return everything that is known about one set of weights.

    Args:
        weights_id: The id, as "wrn_16_1.cifar10_ferles".

    Raises:
        UsageError: There are no such weights. The message names similar ids.
    """
    return load_manifest().find(weights_id)


@cache
def constructors() -> dict[str, Callable[..., ImageClassifier]]:
    """Return one function for each architecture, by its name.

    `constructors()["wrn_28_10"](weights="cifar10")` does the same as `create_model("wrn_28_10",
    weights="cifar10")`.
    """
    return {row.name: _make_constructor(row) for row in architectures().values()}


def _make_constructor(row: Architecture) -> Callable[..., ImageClassifier]:
    def constructor(
        *,
        weights: str | Path | None = None,
        pretrained: bool = False,
        num_classes: int | None = None,
        in_chans: int | None = None,
        **arch: Any,
    ) -> ImageClassifier:
        return create_model(
            row.name, weights=weights, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **arch
        )

    tags = ", ".join(f'"{entry.tag}"' for entry in load_manifest().of_architecture(row.name))
    constructor.__name__ = constructor.__qualname__ = row.name
    constructor.__doc__ = (
        f"{row.description}.\n\n"
        f"Images (N, in_chans, {row.input_size}, {row.input_size}) to logits (N, num_classes), {row.num_classes} by "
        f"default. Weights: {tags or 'none yet'}. Arguments and errors are those of `pyramidzoo.create_model`.\n\n"
        f"Source: {row.source}."
    )
    return constructor


def _find_entry(name: str, weights: str | Path | None) -> WeightsEntry:
    manifest = load_manifest()
    if isinstance(weights, str) and "." in weights:
        entry = manifest.find(weights)
        if entry.architecture != name:
            raise UsageError(f"{entry.id} are weights of {entry.architecture}, not of {name}")
        return entry
    return manifest.default_for(name, None if weights is None else str(weights))


def _require_channels(channels: int, in_chans: int | None) -> None:
    """Refuse `in_chans` if it is another number than that of the weights."""
    if in_chans not in (None, channels):
        raise UsageError(
            f"these weights read images of {channels} channel{'s' if channels > 1 else ''}, not in_chans={in_chans}, "
            "and a stem is not adapted here: give such images, or start without weights"
        )


def _require_safetensors(row: Architecture, path: Path) -> None:
    if path.suffix != ".safetensors" and path.is_file():
        raise UsageError(
            f"{path} is not a safetensors file; `pyramidzoo convert {path} --arch {row.name} --dataset ... "
            "--output ...` makes one"
        )


def _read_description(row: Architecture, content: Content) -> tuple[Mapping[str, Any], Preprocessing | None]:
    """The arguments and the preprocessing that a file describes; none for a file of another program.

    A file of torchvision or timm has no description, but its tensors may fit.
    """
    description = Description.of(content.path, content.metadata)
    if description is None:
        return {}, None
    if description.architecture != row.name:
        raise IntegrityError(f"{content.path} holds {description.architecture}, not {row.name}")
    classes = _read_classes(row, content)
    if description.num_classes != classes:
        raise IntegrityError(
            f"{content.path} says that it tells {description.num_classes} classes apart, its classifier tells "
            f"{classes}; convert it again"
        )
    return description.arguments, description.preprocessing


def _read_classes(row: Architecture, content: Content) -> int:
    """The number of classes, by the shape of the classifier."""
    name = f"{model_class(row).classifier_name}.weight"
    head = content.tensors.get(name)
    if head is None or head.dim() != 2 or not 0 < head.shape[0] < MAX_CLASSES:
        raise IntegrityError(f"{content.path} has no classifier ({name}); it is not a file of {row.name}")
    return head.shape[0]


def _read_channels(row: Architecture, content: Content) -> int:
    """The number of channels, by the shape of the stem. A file with another stem does not fit whatever is returned."""
    stem = content.tensors.get(f"{model_class(row).stem_name}.weight")
    return stem.shape[1] if stem is not None and stem.dim() == 4 and 0 < stem.shape[1] < MAX_CLASSES else 3
