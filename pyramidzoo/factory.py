"""Networks by name, with or without weights; the constructors that users call are made from the table of names."""

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
    """Create a network of the zoo, with or without pretrained weights.

    The network is in training mode and on the CPU. It computes logits (N, num_classes) of images
    (N, in_chans, H, W).

    Args:
        name: an architecture, such as "wrn_28_10".
        weights: which weights to load: a tag ("cifar10", "cifar10_ferles"), an id
            ("wrn_16_1.cifar10_ferles"), a safetensors file, or a folder that holds one.
        pretrained: whether to load the architecture's default weights. Give this or `weights`.
        num_classes: how many classes. The default is that of the weights; without weights it is that
            of the architecture. With another number the classifier of the weights is left out, and
            the network gets a new one.
        in_chans: how many channels an image has. The default is that of the weights, else 3.
        arch: more arguments of the architecture's class, such as `drop_rate`.

    Returns:
        The network. Loaded tensors are float32, and a private memory map of the file. You may replace
        or delete the file while the network is in use. Do not write into it (as `torch.save` to the
        same path does).

    Raises:
        UsageError: no architecture or tag has this name, or both `weights` and `pretrained` are given.
        IntegrityError: the file does not hold exactly this network's tensors.
        UnavailableError: the file cannot be had.
        TypeError: the architecture has no such argument.

    Example:
        >>> model = create_model("resnet20_fattorib", weights="cifar10")
        >>> model = create_model("wrn_28_10", num_classes=37, drop_rate=0.3)
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

    if isinstance(weights, Path) or (weights is not None and is_path(weights)):
        content = read_weights(_check_suffix(row, find_weights_file(expand_user_path(str(weights)))))
        arguments, preprocessing = _read_description(row, content)
    else:
        entry = _find_entry(name, weights)
        _check_channels(entry.preprocessing.input_size[0], in_chans)  # before anything is downloaded
        located = fetch(entry)
        content = read_weights(located.path, sha256=located.sha256)
        arguments, preprocessing = dict(entry.arguments), entry.preprocessing
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
    """Build a network and give it the tensors of a file.

    Args:
        row: the architecture.
        content: what the file holds.
        arguments: arguments of the architecture's class that the weights were made with.
        preprocessing: that of the weights. Its number of channels is the network's. If it is unknown,
            the stem in the file tells the number.
        num_classes: how many classes; None for those of the file.
        in_chans: how many channels; None for those of the weights.
        arch: arguments that the caller adds.

    Returns:
        The network, in training mode and on the CPU.

    Raises:
        UsageError: `in_chans` is not what the weights read.
        IntegrityError: the file does not hold exactly this network's tensors.
        TypeError: the architecture has no such argument.
    """
    channels = _check_channels(
        _count_check_channels(row, content) if preprocessing is None else preprocessing.input_size[0], in_chans
    )
    classes = _count_classes(row, content)
    keep_head = num_classes in (None, classes)
    try:
        with skip_initialisation():
            model = build(row, in_chans=channels, num_classes=classes if keep_head else 0, **{**arguments, **arch})
    except (TypeError, ValueError) as error:
        if arch or not arguments:
            raise
        raise IntegrityError(
            f"{content.path}: its metadata do not describe a {row.name}: {error}; convert it anew"
        ) from error
    load_weights(model, content, head="require" if keep_head else "drop")
    if not keep_head and num_classes:
        model.reset_classifier(num_classes)
    model.preprocessing = preprocessing
    return model


def list_weights(pattern: str = "*", *, dataset: str | None = None) -> list[str]:
    """List the ids of weights, in the order of the manifest.

    Args:
        pattern: a shell pattern for the id or the architecture, such as "wrn_*".
        dataset: only weights that were trained on this dataset.

    Returns:
        The ids, such as "wrn_16_1.cifar10_ferles".
    """
    return [entry.id for entry in load_manifest().match(pattern) if dataset in (None, entry.dataset)]


def get_weights(weights_id: str) -> WeightsEntry:
    """Return everything that the manifest knows about one set of weights.

    Args:
        weights_id: its id, or `architecture.dataset` for the default weights of a dataset.

    Returns:
        The entry of the manifest.

    Raises:
        UsageError: no weights have this id. The message has the most similar ids.
    """
    return load_manifest().find(weights_id)


@cache
def constructors() -> dict[str, Callable[..., ImageClassifier]]:
    """Return a function for each architecture, by name.

    `wrn_28_10(weights="cifar10")` does the same as `create_model("wrn_28_10", weights="cifar10")`.
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


def _check_channels(channels: int, in_chans: int | None) -> int:
    """Return the number of channels that the weights read. `in_chans` may repeat it but not change it."""
    if in_chans not in (None, channels):
        raise UsageError(
            f"these weights read images of {channels} channel{'s' if channels > 1 else ''}, not in_chans={in_chans}. "
            "create_model does not change the stem of pretrained weights: give such images, or start without weights"
        )
    return channels


def _check_suffix(row: Architecture, path: Path) -> Path:
    if path.suffix != ".safetensors" and path.is_file():
        raise UsageError(
            f"{path} is not a safetensors file; `pyramidzoo convert {path} --arch {row.name} --dataset ... "
            "--output ...` makes one"
        )
    return path


def _read_description(row: Architecture, content: Content) -> tuple[dict[str, Any], Preprocessing | None]:
    """Read the arguments and the preprocessing that a file names in its metadata.

    A file that another program wrote (torchvision, timm) names neither. Its tensors may still fit.
    """
    description = Description.from_file(content.path, content.metadata)
    if description is None:
        return {}, None
    if description.architecture != row.name:
        raise IntegrityError(f"{content.path} holds {description.architecture}, not {row.name}")
    if description.num_classes != _count_classes(row, content):
        raise IntegrityError(
            f"{content.path} says that it tells {description.num_classes} classes apart, its classifier tells "
            f"{_count_classes(row, content)}; convert it anew"
        )
    return dict(description.arguments), description.preprocessing


def _count_classes(row: Architecture, content: Content) -> int:
    name = f"{model_class(row).classifier_name}.weight"
    head = content.tensors.get(name)
    if head is None or head.dim() != 2 or not 0 < head.shape[0] < MAX_CLASSES:
        raise IntegrityError(f"{content.path} has no classifier ({name}); it is not a file of {row.name}")
    return head.shape[0]


def _count_check_channels(row: Architecture, content: Content) -> int:
    stem = content.tensors.get(f"{model_class(row).stem_name}.weight")
    return stem.shape[1] if stem is not None and stem.dim() == 4 and 0 < stem.shape[1] < MAX_CLASSES else 3
