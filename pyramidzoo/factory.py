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
    """A network of the zoo, in training mode on the CPU, with the images' (N, in_chans, H, W) -> (N, num_classes).

    `weights` is a tag ("cifar10", "cifar10_ferles"), an id ("wrn_16_1.cifar10_ferles"), a safetensors file or a folder
    with one; `pretrained=True` means the architecture's default weights. With weights, `num_classes` and `in_chans`
    default to theirs (without: the table's, and 3); another `num_classes` drops exactly the classifier and starts a new
    one. `arch` goes to the family (drop_rate, ...). Loaded tensors are float32 and a private map of their file: it may
    be replaced or deleted meanwhile, but not written into (`torch.save` to the same path does).

    Raises UsageError for an unknown name or tag and for `weights` and `pretrained` at once, IntegrityError for a file
    that is not exactly this network's, UnavailableError where the file cannot be had, TypeError for unknown arguments.
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
        content = read_weights(_checked_path(row, find_weights_file(expand_user_path(str(weights)))))
        arguments, preprocessing = _described(row, content)
    else:
        entry = _find(name, weights)
        _channels(entry.preprocessing.input_size[0], in_chans)  # before anything is downloaded
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
    """The network of a row with a file's tensors; `arguments` are the weights' own, `arch` the caller's.

    Its channels are those of `preprocessing`, or without it of the stem in the file. Raises as `create_model` does.
    """
    channels = _channels(_channels_in(row, content) if preprocessing is None else preprocessing.input_size[0], in_chans)
    classes = _classes_in(row, content)
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
    """Ids of the weights that match a shell pattern, in the manifest's order."""
    return [entry.id for entry in load_manifest().match(pattern) if dataset in (None, entry.dataset)]


def get_weights(weights_id: str) -> WeightsEntry:
    """Everything known about one set of weights. Raises UsageError, which names near matches."""
    return load_manifest().find(weights_id)


@cache
def constructors() -> dict[str, Callable[..., ImageClassifier]]:
    """One function for every architecture: `wrn_28_10(weights="cifar10")` is `create_model("wrn_28_10", ...)`."""
    return {row.name: _constructor(row) for row in architectures().values()}


def _constructor(row: Architecture) -> Callable[..., ImageClassifier]:
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


def _find(name: str, weights: str | Path | None) -> WeightsEntry:
    manifest = load_manifest()
    if isinstance(weights, str) and "." in weights:
        entry = manifest.find(weights)
        if entry.architecture != name:
            raise UsageError(f"{entry.id} are weights of {entry.architecture}, not of {name}")
        return entry
    return manifest.default_for(name, None if weights is None else str(weights))


def _channels(theirs: int, in_chans: int | None) -> int:
    """The weights' own number of input channels, which `in_chans` may repeat but not change."""
    if in_chans not in (None, theirs):
        raise UsageError(
            f"these weights read images of {theirs} channel{'s' if theirs > 1 else ''}, not in_chans={in_chans}, and a "
            "stem is not adapted here: give such images, or start without weights"
        )
    return theirs


def _checked_path(row: Architecture, path: Path) -> Path:
    if path.suffix != ".safetensors" and path.is_file():
        raise UsageError(
            f"{path} is not a safetensors file; `pyramidzoo convert {path} --arch {row.name} --dataset ... "
            "--output ...` makes one"
        )
    return path


def _described(row: Architecture, content: Content) -> tuple[dict[str, Any], Preprocessing | None]:
    """What a file says of itself; a file of another program (torchvision, timm) says nothing and may still fit."""
    description = Description.of(content.path, content.metadata)
    if description is None:
        return {}, None
    if description.architecture != row.name:
        raise IntegrityError(f"{content.path} holds {description.architecture}, not {row.name}")
    if description.num_classes != _classes_in(row, content):
        raise IntegrityError(
            f"{content.path} says that it tells {description.num_classes} classes apart, its classifier tells "
            f"{_classes_in(row, content)}; convert it anew"
        )
    return dict(description.arguments), description.preprocessing


def _classes_in(row: Architecture, content: Content) -> int:
    name = f"{model_class(row).classifier_name}.weight"
    head = content.tensors.get(name)
    if head is None or head.dim() != 2 or not 0 < head.shape[0] < MAX_CLASSES:
        raise IntegrityError(f"{content.path} has no classifier ({name}); it is not a file of {row.name}")
    return head.shape[0]


def _channels_in(row: Architecture, content: Content) -> int:
    stem = content.tensors.get(f"{model_class(row).stem_name}.weight")
    return stem.shape[1] if stem is not None and stem.dim() == 4 and 0 < stem.shape[1] < MAX_CLASSES else 3
