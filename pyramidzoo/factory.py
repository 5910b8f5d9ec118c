"""Create networks by name, with or without weights. One function for each architecture does the same."""

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
from pyramidzoo.models import build, get_model_class, skip_initialisation
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
        name: Name of an architecture, such as "wrn_28_10".
        weights: The weights to load: a tag ("cifar10", "cifar10_ferles"), an id
            ("wrn_16_1.cifar10_ferles"), a safetensors file, or a folder that contains one. None loads no
            weights, unless `pretrained` is True.
        pretrained: Whether to load the architecture's default weights. Give this or `weights`.
        num_classes: Number of classes. None means that of the weights; without weights it means that of
            the dataset for which the architecture was published. If the weights have another number,
            their classifier is not loaded, and the network gets a new classifier with random weights.
        in_chans: Number of channels of an image. None means that of the weights, or 3 without weights.
        arch: More arguments of the network's class, such as `drop_rate`.

    Returns:
        The network. Loaded tensors are float32, and a private memory map of the file: the system reads a
        part of the file when the part is used, and training does not change the file. You may replace or
        delete the file while the network is in use. Do not write into it (as `torch.save` to the same
        path does).

    Raises:
        UsageError: No architecture or tag has this name, or both `weights` and `pretrained` are given.
        IntegrityError: The file does not contain exactly the tensors of this network.
        UnavailableError: The file cannot be read or downloaded.
        TypeError: The network's class has no such argument.

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
        raise TypeError(f"pretrained must be True or False, not {pretrained!r}; use weights= to name weights")
    if weights is not None and pretrained:
        raise UsageError("weights= and pretrained=True both say which weights to load; give only one of them")
    if weights is None and not pretrained:
        class_arguments = arch if num_classes is None else {"num_classes": num_classes, **arch}
        return build(row, in_chans=3 if in_chans is None else in_chans, **class_arguments)

    if isinstance(weights, Path) or (weights is not None and is_path(weights)):
        path = find_weights_file(expand_user_path(str(weights)))
        _require_safetensors(row, path)
        content = read_weights(path)
        arguments, preprocessing = _read_description(row, content)
    else:
        entry = _find_entry(name, weights)
        _require_same_channels(entry.preprocessing.input_size[0], in_chans)  # before anything is downloaded
        weights_file = fetch(entry)
        content = read_weights(weights_file.path, sha256=weights_file.sha256)
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
        row: The architecture.
        content: The tensors and the metadata of the file.
        arguments: Arguments of the network's class with which the weights were trained.
        preprocessing: The preprocessing of the weights, which says how many channels an image has. If it
            is None, the weight of the stem in the file says that.
        num_classes: Number of classes; None means the number in the file.
        in_chans: Number of channels of an image; None means that of the weights.
        arch: More arguments of the network's class, from the caller of `create_model`.

    Returns:
        The network, in training mode and on the CPU.

    Raises:
        UsageError: `in_chans` is not the number of channels of the weights.
        IntegrityError: The file does not contain exactly the tensors of this network.
        TypeError: The network's class has no such argument.
    """
    channels = _count_input_channels(row, content) if preprocessing is None else preprocessing.input_size[0]
    _require_same_channels(channels, in_chans)
    classes_in_file = _count_classes(row, content)
    keep_head = num_classes in (None, classes_in_file)
    try:
        with skip_initialisation():
            model = build(
                row, in_chans=channels, num_classes=classes_in_file if keep_head else 0, **{**arguments, **arch}
            )
    except (TypeError, ValueError) as error:
        # The class refused an argument. If the caller gave arguments, the error is the caller's. If all of them came
        # from the file, the file is wrong.
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
    """List the ids of weights, in the order of the manifest.

    Args:
        pattern: A shell pattern that the id or the name of the architecture matches, such as "wrn_*".
        dataset: List only weights that were trained on this dataset. None means all datasets.

    Returns:
        The ids, such as "wrn_16_1.cifar10_ferles".
    """
    return [entry.id for entry in load_manifest().match(pattern) if dataset in (None, entry.dataset)]


def get_weights(weights_id: str) -> WeightsEntry:
    """Return the manifest's entry of one set of weights.

    Args:
        weights_id: The id of the weights, or `architecture.dataset` for the default weights of a dataset.

    Returns:
        The entry of the manifest.

    Raises:
        UsageError: No weights have this id. The message suggests similar ids.
    """
    return load_manifest().find(weights_id)


@cache
def constructors() -> dict[str, Callable[..., ImageClassifier]]:
    """Make a function for each architecture that creates its network. Return the functions by name.

    `wrn_28_10(weights="cifar10")` does the same as `create_model("wrn_28_10", weights="cifar10")`.
    """
    return {row.name: _make_constructor(row) for row in architectures().values()}


def _make_constructor(row: Architecture) -> Callable[..., ImageClassifier]:
    """Make the function that creates the network of an architecture, with a name and a docstring of its own."""

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

    tags = ", ".join(f'"{entry.tag}"' for entry in load_manifest().list_entries(row.name))
    constructor.__name__ = constructor.__qualname__ = row.name
    constructor.__doc__ = (
        f"{row.description}.\n\n"
        f"Images (N, in_chans, {row.input_size}, {row.input_size}) to logits (N, num_classes), {row.num_classes} by "
        f"default. Weights: {tags or 'none yet'}. Arguments and errors are those of `pyramidzoo.create_model`.\n\n"
        f"Source: {row.source}."
    )
    return constructor


def _find_entry(name: str, weights: str | Path | None) -> WeightsEntry:
    """Find the manifest's entry for an id or a tag. None means the architecture's default weights."""
    manifest = load_manifest()
    if isinstance(weights, str) and "." in weights:
        entry = manifest.find(weights)
        if entry.architecture != name:
            raise UsageError(f"{entry.id} are weights of {entry.architecture}, not of {name}")
        return entry
    return manifest.find_by_tag(name, None if weights is None else str(weights))


def _require_same_channels(channels: int, in_chans: int | None) -> None:
    """Raise UsageError if `in_chans` is given and differs from the number of channels of the weights."""
    if in_chans not in (None, channels):
        raise UsageError(
            f"these weights read images of {channels} channel{'s' if channels > 1 else ''}, not in_chans={in_chans}. "
            f"create_model does not change the stem of pretrained weights: give images of {channels} "
            f"channel{'s' if channels > 1 else ''}, or create the network without weights"
        )


def _require_safetensors(row: Architecture, path: Path) -> None:
    """Raise UsageError if the name of a file does not end with ".safetensors"."""
    if path.suffix != ".safetensors" and path.is_file():
        raise UsageError(
            f"{path} is not a safetensors file; `pyramidzoo convert {path} --arch {row.name} --dataset ... "
            "--output ...` makes one"
        )


def _read_description(row: Architecture, content: Content) -> tuple[dict[str, Any], Preprocessing | None]:
    """Read the arguments of the network's class, and the preprocessing, from the metadata of a file.

    If another program wrote the file (torchvision, timm), the metadata contain neither. The result is then no arguments
    and None. The tensors may still be those of this architecture.

    Raises:
        IntegrityError: The metadata name another architecture, or another number of classes than the tensors have.
    """
    description = Description.from_file(content.path, content.metadata)
    if description is None:
        return {}, None
    if description.architecture != row.name:
        raise IntegrityError(f"{content.path} contains weights of {description.architecture}, not of {row.name}")
    if description.num_classes != _count_classes(row, content):
        raise IntegrityError(
            f"the metadata of {content.path} name {description.num_classes} classes, but its classifier has "
            f"{_count_classes(row, content)}; convert it again"
        )
    return dict(description.arguments), description.preprocessing


def _count_classes(row: Architecture, content: Content) -> int:
    """Return the number of classes of the classifier in a file: the rows of its weight."""
    name = f"{get_model_class(row).classifier_name}.weight"
    classifier_weight = content.tensors.get(name)
    # The limit keeps a damaged file from making PyTorch ask for very much memory.
    if classifier_weight is None or classifier_weight.dim() != 2 or not 0 < classifier_weight.shape[0] < MAX_CLASSES:
        raise IntegrityError(f"{content.path} has no classifier ({name}); it is not a file of {row.name}")
    return classifier_weight.shape[0]


def _count_input_channels(row: Architecture, content: Content) -> int:
    """Return the number of channels that the stem in a file reads: the second dimension of its weight."""
    stem_weight = content.tensors.get(f"{get_model_class(row).stem_name}.weight")
    if stem_weight is None or stem_weight.dim() != 4 or not 0 < stem_weight.shape[1] < MAX_CLASSES:
        return 3  # Any number will do: the file is damaged, and loading its tensors into the network raises an error.
    return stem_weight.shape[1]
