"""Use pyramidzoo's networks through timm.

After `register_with_timm()`, `timm.create_model("pyramidzoo_resnet20", pretrained=True)` works. pyramidzoo loads the
weights that are in its manifest: it checks their hashes and the names of the tensors, and does not use timm's download.
timm loads other weights, which a user names by timm's own arguments (`hf-hub:`, `local-dir:`, `checkpoint_path` or
`pretrained_cfg_overlay`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    build_model_with_cfg,
    is_model,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from pyramidzoo.catalog.architectures import Architecture, architectures
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing, require_plausible_normalization
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.factory import create_model
from pyramidzoo.json_records import InvalidRecordError
from pyramidzoo.models._interface import ImageClassifier

NAME_PREFIX = "pyramidzoo_"
# timm's configuration of weights must have a `url`. Ours is this prefix and the weights id. Only pyramidzoo reads it.
_URL_PREFIX = "pyramidzoo:"

# The mean and the standard deviation of each channel for networks without weights: those of the training images.
_MEAN_AND_STD = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet1k": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

# timm's `register_model` looks for the configurations in the variable of this name, in the module of the function.
default_cfgs: dict[str, DefaultCfg] = {}


def register_with_timm() -> None:
    """Register every architecture with timm as `pyramidzoo_NAME`, and its weights as tags.

    This reads only the table of architectures and the manifest. The module of a family is imported when a network of
    the family is created. A second call changes nothing.
    """
    entries_by_architecture: dict[str, list[WeightsEntry]] = {}
    for entry in load_manifest().entries.values():
        entries_by_architecture.setdefault(entry.architecture, []).append(entry)
    for row in architectures().values():
        name = NAME_PREFIX + row.name
        if is_model(name) and model_entrypoint(name).__module__ == __name__:
            continue
        default_cfgs[name] = _make_default_cfg(row, entries_by_architecture.get(row.name, []))
        # The function becomes an attribute of this module, because timm adds its name to the module's `__all__`.
        globals()[name] = _make_entrypoint(row)
        register_model(globals()[name])


def compute_crop_pct(resize: int, crop: int) -> float:
    """Compute timm's `crop_pct` for a resize and a crop.

    timm resizes the shorter side to `floor(crop / crop_pct)` pixels. The obvious fraction, `crop / resize`, may be
    rounded up to a float. Then the result is one pixel too small. So the fraction is lowered to the next smaller float
    until the result is exact.

    Args:
        resize: Length of the shorter side after resizing, in pixels.
        crop: Side of the square that is cut out, in pixels.

    Returns:
        The fraction.
    """
    fraction = crop / resize
    while math.floor(crop / fraction) < resize:
        fraction = math.nextafter(fraction, 0.0)
    return fraction


def _make_default_cfg(row: Architecture, entries: Sequence[WeightsEntry]) -> DefaultCfg:
    """Make timm's configurations of all tags of an architecture.

    timm uses the first configuration if a user gives no tag. So the first one is the default entry for the dataset for
    which the architecture was published. If there is no such entry, the first one has no tag and no weights.
    """
    default_entries = [entry for entry in entries if entry.default and entry.dataset == row.dataset]
    other_entries = [entry for entry in entries if entry not in default_entries]
    cfgs = {entry.tag: make_weights_cfg(row, entry) for entry in [*default_entries, *other_entries]}
    if not default_entries:
        cfgs = {"": _make_cfg_without_weights(row), **cfgs}
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=bool(entries))


def make_weights_cfg(row: Architecture, entry: WeightsEntry) -> PretrainedCfg:
    """Make timm's configuration of the weights of a manifest's entry.

    Args:
        row: The architecture.
        entry: The manifest's entry of the weights.

    Returns:
        The configuration: the id of the weights, their license and origin, the preprocessing, and a description.
    """
    return PretrainedCfg(
        url=_URL_PREFIX + entry.id,
        num_classes=entry.num_classes,
        license=entry.license.weights,
        origin_url=entry.origin.url if entry.origin else entry.citation,
        **_make_transform_fields(entry.preprocessing),
        **_make_description_fields(row),
    )


def _make_cfg_without_weights(row: Architecture) -> PretrainedCfg:
    """Make timm's configuration of a network without weights, with the usual preprocessing of its dataset."""
    mean, std = _MEAN_AND_STD.get(row.dataset, _MEAN_AND_STD["cifar10"])
    side = row.input_size
    preprocessing = Preprocessing((3, side, side), mean, std)
    if side > 64:
        # Large images are resized before the crop, as is usual for ImageNet: to 256 pixels for a crop of 224, and
        # 224 / 256 is 0.875.
        preprocessing = dataclasses.replace(
            preprocessing, resize=round(side / 0.875), crop=side, interpolation="bilinear"
        )
    return PretrainedCfg(
        num_classes=row.num_classes, **_make_transform_fields(preprocessing), **_make_description_fields(row)
    )


def _make_transform_fields(preprocessing: Preprocessing) -> dict[str, Any]:
    """Make the fields from which timm makes its evaluation transform.

    timm always resizes an image. Without `resize` and `crop`, it resizes the image to the size of the input. An image
    that already has this size does not change.
    """
    channels, height, width = preprocessing.input_size
    fields: dict[str, Any] = {
        "input_size": (channels, height, width),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation or "bilinear",
        "crop_pct": 1.0,
    }
    if preprocessing.resize is not None:
        crop = preprocessing.crop or preprocessing.resize
        fields |= {"input_size": (channels, crop, crop), "crop_pct": compute_crop_pct(preprocessing.resize, crop)}
    return fields


def _make_description_fields(row: Architecture) -> dict[str, Any]:
    """Make the fields in which timm describes a network: a description, its source, and the arXiv ids of the papers."""
    paper_ids = tuple(f"arXiv:{number}" for number in re.findall(r"arXiv:(\d+\.\d+)", row.source))
    return {"description": row.description, "notes": (row.source,), "paper_ids": paper_ids or None}


def _make_entrypoint(row: Architecture) -> Callable[..., nn.Module]:
    """Make the function that `timm.create_model` calls for an architecture. timm's name of it is "entry point"."""

    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: object = None,
        **settings: Any,
    ) -> nn.Module:
        cfg = _resolve_cfg(row, pretrained_cfg, pretrained_cfg_overlay)
        return _build(row, cfg, pretrained=pretrained, cache_dir=cache_dir, arguments=settings)

    entrypoint.__name__ = entrypoint.__qualname__ = NAME_PREFIX + row.name
    entrypoint.__doc__ = f"{row.description}.\n\nSource: {row.source}."
    return entrypoint


def _resolve_cfg(row: Architecture, cfg: Any, overlay: dict[str, Any] | None) -> PretrainedCfg:
    """Let timm make the configuration that a user asked for.

    `cfg` is a tag, a configuration or None. `overlay` has the fields that the user changes in it.
    """
    if cfg and isinstance(cfg, str):
        # "cifar10" means the default weights for this dataset, as in `pyramidzoo.create_model`. Its tag may be longer.
        cfg = load_manifest().find_by_tag(row.name, cfg).tag
    resolved = resolve_pretrained_cfg(NAME_PREFIX + row.name, pretrained_cfg=cfg, pretrained_cfg_overlay=overlay)
    _require_plausible(row, resolved, overlay or {})
    return resolved


def _require_plausible(row: Architecture, cfg: PretrainedCfg, overlay: Mapping[str, Any]) -> None:
    """Raise an error if the mean or the standard deviation in a configuration cannot be right.

    It is an IntegrityError if the numbers come from the file of a published configuration, and a UsageError if the
    caller gave them.
    """
    try:
        require_plausible_normalization(cfg.mean, cfg.std)
    except InvalidRecordError as error:
        # timm sets `source` if it has read the configuration from a file or from the Hub.
        if cfg.source and not {"mean", "std"} & overlay.keys():
            place = f"{cfg.hf_hub_id or cfg.file} ({cfg.source})"
            raise IntegrityError(f"the configuration of {place}: {error}; mend its config.json") from error
        raise UsageError(f"{NAME_PREFIX}{row.name}: {error}") from error


def _build(
    row: Architecture, cfg: PretrainedCfg, *, pretrained: bool, cache_dir: Any, arguments: dict[str, Any]
) -> nn.Module:
    """Build a network as `timm.create_model` was asked to, and load its weights.

    pyramidzoo loads weights of its manifest. timm loads all other weights, sets the attributes that it expects of a
    network, and wraps the network in its feature extractor if `features_only` is True.

    Args:
        row: The architecture.
        cfg: timm's configuration.
        pretrained: Whether to load weights.
        cache_dir: The folder in which timm keeps downloads; None means its default.
        arguments: All other arguments of `timm.create_model`.
    """
    num_classes = arguments.pop("num_classes", cfg.num_classes)
    in_chans = arguments.pop("in_chans", cfg.input_size[0])
    features_only = arguments.pop("features_only", False)
    feature_arguments = {name: arguments.pop(name) for name in ("out_indices", "feature_cls") if name in arguments}
    timm_arguments = {name: arguments.pop(name) for name in ("pretrained_model_args",) if name in arguments}
    if arguments.pop("global_pool", "avg") != "avg":
        raise UsageError(f"{row.name} pools by averaging; forward_features gives the feature map before the pooling")

    has_our_weights = pretrained and _find_our_weights_id(cfg) is not None
    if has_our_weights and cache_dir is not None:
        raise UsageError("cache_dir is where timm keeps its downloads; PYRAMIDZOO_CACHE names pyramidzoo's folder")
    model = create_model(
        row.name,
        weights=_choose_weights(row, cfg, in_chans) if has_our_weights else None,
        num_classes=0 if features_only else num_classes,
        in_chans=in_chans,
        **arguments,
    )
    cfg = complete_cfg(cfg, model)
    if features_only:
        feature_cfg = _make_feature_cfg(row, model, **feature_arguments)
        timm_arguments |= {"features_only": True, "feature_cfg": feature_cfg}
    # timm calls its first argument to build the network. This function returns the network that is built already.
    return build_model_with_cfg(
        lambda **_: model,
        NAME_PREFIX + row.name,
        pretrained and not has_our_weights,
        pretrained_cfg=dataclasses.asdict(cfg),
        cache_dir=cache_dir,
        num_classes=model.num_classes,
        in_chans=in_chans,
        **timm_arguments,
    )


def complete_cfg(cfg: PretrainedCfg, model: ImageClassifier) -> PretrainedCfg:
    """Add the fields that depend on the network to timm's configuration.

    Args:
        cfg: The configuration.
        model: The network.

    Returns:
        The configuration with the names of the stem and the classifier, and with the height and width of the last
        feature map.
    """
    reduction = model.feature_info[-1]["reduction"]
    return dataclasses.replace(
        cfg,
        first_conv=model.stem_name,
        classifier=model.classifier_name,
        pool_size=tuple(math.ceil(side / reduction) for side in cfg.input_size[1:]),
    )


def _find_our_weights_id(cfg: PretrainedCfg) -> str | None:
    """Return the id of the weights in pyramidzoo's manifest that a configuration names.

    It is "" if the configuration names no weights. It is None if it names other weights, which timm loads: a file, a
    state dict, a repository on the Hub, or an address on the web.
    """
    if cfg.source or cfg.state_dict or cfg.file or cfg.hf_hub_id:
        return None
    url = str(cfg.url or "")
    return url.removeprefix(_URL_PREFIX) if url.startswith(_URL_PREFIX) or not url else None


def _choose_weights(row: Architecture, cfg: PretrainedCfg, in_chans: int) -> str:
    """Return the id of the weights that a configuration names, or else of the architecture's default weights.

    Raises:
        UsageError: There are no such weights, or they read images with another number of channels than `in_chans`.
    """
    manifest = load_manifest()
    entry = manifest.find(_find_our_weights_id(cfg) or manifest.find_by_tag(row.name).id)
    channels = entry.preprocessing.input_size[0]
    if in_chans != channels:
        raise UsageError(
            f"{entry.id} reads {channels} channels, not in_chans={in_chans}, and pyramidzoo does not change "
            f"the stem of pretrained weights: give images of {channels} channels, or create the network without "
            "weights (pretrained=False)"
        )
    return entry.id


def _make_feature_cfg(
    row: Architecture,
    model: ImageClassifier,
    *,
    out_indices: int | Sequence[int] | None = None,
    feature_cls: str = "hook",
) -> dict[str, Any]:
    """Make the arguments of timm's feature extractor.

    Args:
        row: The architecture.
        model: The network.
        out_indices: The indices of the stages whose outputs the user wants. A number means the last so many stages, and
            None means all stages.
        feature_cls: Which of timm's extractors to use.

    Returns:
        The extractor, and the indices in ascending order.

    Raises:
        UsageError: There are no such stages, or the extractor would give wrong results.
    """
    if feature_cls not in ("hook", "fx"):
        raise UsageError(
            f"feature_cls {feature_cls!r} runs the modules of a network one by one, without the functions between "
            'them, such as ReLU; use "hook" (the default) or "fx"'
        )
    stage_count = len(model.feature_info)
    if out_indices is None or isinstance(out_indices, int):
        indices = list(range(-(stage_count if out_indices is None else out_indices), 0))
    else:
        indices = list(out_indices)
    if not indices or not all(-stage_count <= index < stage_count for index in indices):
        raise UsageError(
            f"{row.name} has {stage_count} feature maps, 0 to {stage_count - 1}; out_indices={out_indices} asks for "
            "others"
        )
    # `%` turns negative indices, which count from the end, into indices from 0 on. The set removes duplicates.
    return {"feature_cls": feature_cls, "out_indices": tuple(sorted({index % stage_count for index in indices}))}
