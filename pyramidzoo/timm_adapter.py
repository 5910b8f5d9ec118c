"""The zoo in timm: after `register_with_timm()`, `timm.create_model("pyramidzoo_resnet20", pretrained=True)` works.

The zoo's own loader loads registered weights, with its hashes and exact names; timm's download is not used. Weights
that are named in timm's own ways (`hf-hub:`, `local-dir:`, `checkpoint_path`, an overlay) are loaded by timm.
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
_SCHEME = "pyramidzoo:"  # timm wants an address for weights; only the zoo understands this one

# Without weights any constants will do. These are those of the training images.
_CONSTANTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet1k": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

default_cfgs: dict[str, DefaultCfg] = {}  # where timm's `register_model` looks for them


def register_with_timm() -> None:
    """Register every architecture with timm as `pyramidzoo_NAME`, and its weights as tags.

    Only the table of architectures and the manifest are read. The code of a family is imported when a network is made.
    A second call does nothing.
    """
    by_architecture: dict[str, list[WeightsEntry]] = {}
    for entry in load_manifest().entries.values():
        by_architecture.setdefault(entry.architecture, []).append(entry)
    for row in architectures().values():
        name = NAME_PREFIX + row.name
        if is_model(name) and model_entrypoint(name).__module__ == __name__:
            continue
        default_cfgs[name] = _make_default_cfg(row, by_architecture.get(row.name, []))
        globals()[name] = _make_entrypoint(row)  # an attribute of this module, as timm's own are of theirs
        register_model(globals()[name])


def compute_crop_pct(resize: int, crop: int) -> float:
    """Compute timm's `crop_pct` for a resize and a crop.

    timm computes the resize as `floor(crop / crop_pct)`. Rounding could make that one pixel too small, so the fraction
    is lowered until the result is exact.

    Args:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the square that is cut out, in pixels.

    Returns:
        The fraction.
    """
    fraction = crop / resize
    while math.floor(crop / fraction) < resize:
        fraction = math.nextafter(fraction, 0.0)
    return fraction


def _make_default_cfg(row: Architecture, entries: Sequence[WeightsEntry]) -> DefaultCfg:
    """Make the configurations of all tags of an architecture.

    The first one is the default for the architecture's own dataset. If there is no such default, the name without a tag
    has no weights.
    """
    first = [entry for entry in entries if entry.default and entry.dataset == row.dataset]
    cfgs = {entry.tag: make_weights_cfg(row, entry) for entry in [*first, *(e for e in entries if e not in first)]}
    if not first:
        cfgs = {"": _make_cfg_without_weights(row), **cfgs}
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=bool(entries))


def make_weights_cfg(row: Architecture, entry: WeightsEntry) -> PretrainedCfg:
    """Make timm's configuration of registered weights.

    Args:
        row: the architecture.
        entry: the weights.

    Returns:
        Where the weights are, how images are prepared, and whose the weights are.
    """
    return PretrainedCfg(
        url=_SCHEME + entry.id,
        num_classes=entry.num_classes,
        license=entry.license.weights,
        origin_url=entry.origin.url if entry.origin else entry.citation,
        **_transform_fields(entry.preprocessing),
        **_description_fields(row),
    )


def _make_cfg_without_weights(row: Architecture) -> PretrainedCfg:
    mean, std = _CONSTANTS.get(row.dataset, _CONSTANTS["cifar10"])
    size = row.input_size
    large = Preprocessing((3, size, size), mean, std, resize=round(size / 0.875), crop=size, interpolation="bilinear")
    small = Preprocessing((3, size, size), mean, std)
    return PretrainedCfg(
        num_classes=row.num_classes, **_transform_fields(large if size > 64 else small), **_description_fields(row)
    )


def _transform_fields(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the fields from which timm makes its evaluation transform.

    timm always resizes. To resize an image to the size that it has changes nothing.
    """
    channels, height, width = preprocessing.input_size
    config: dict[str, Any] = {
        "input_size": (channels, height, width),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation or "bilinear",
        "crop_pct": 1.0,
    }
    if preprocessing.resize is not None:
        crop = preprocessing.crop or preprocessing.resize
        config |= {"input_size": (channels, crop, crop), "crop_pct": compute_crop_pct(preprocessing.resize, crop)}
    return config


def _description_fields(row: Architecture) -> dict[str, Any]:
    papers = tuple(f"arXiv:{number}" for number in re.findall(r"arXiv:(\d+\.\d+)", row.source))
    return {"description": row.description, "notes": (row.source,), "paper_ids": papers or None}


def _make_entrypoint(row: Architecture) -> Callable[..., nn.Module]:
    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: object = None,
        **settings: Any,
    ) -> nn.Module:
        cfg = _resolve_cfg(row, pretrained_cfg, pretrained_cfg_overlay)
        return _build(row, cfg, pretrained=pretrained, cache_dir=cache_dir, settings=settings)

    entrypoint.__name__ = entrypoint.__qualname__ = NAME_PREFIX + row.name
    entrypoint.__doc__ = f"{row.description}.\n\nSource: {row.source}."
    return entrypoint


def _resolve_cfg(row: Architecture, cfg: Any, overlay: dict[str, Any] | None) -> PretrainedCfg:
    """Let timm resolve a tag, a dict or nothing, together with the user's changes."""
    if cfg and isinstance(cfg, str):  # a dataset alone means its default entry, as everywhere in the zoo
        cfg = load_manifest().find_by_tag(row.name, cfg).tag
    resolved = resolve_pretrained_cfg(NAME_PREFIX + row.name, pretrained_cfg=cfg, pretrained_cfg_overlay=overlay)
    _require_plausible(row, resolved, overlay or {})
    return resolved


def _require_plausible(row: Architecture, cfg: PretrainedCfg, overlay: Mapping[str, Any]) -> None:
    """Refuse a mean or standard deviation that cannot be right, of a published configuration or of the caller."""
    try:
        require_plausible_normalization(cfg.mean, cfg.std)
    except InvalidRecordError as error:
        if cfg.source and not {"mean", "std"} & overlay.keys():  # as timm names where it has read the config
            where = f"{cfg.hf_hub_id or cfg.file} ({cfg.source})"
            raise IntegrityError(f"the configuration of {where}: {error}; mend its config.json") from error
        raise UsageError(f"{NAME_PREFIX}{row.name}: {error}") from error


def _build(
    row: Architecture, cfg: PretrainedCfg, *, pretrained: bool, cache_dir: Any, settings: dict[str, Any]
) -> nn.Module:
    """Build and load the network. Add what timm expects of it, and timm's feature extractor if it is wanted."""
    num_classes = settings.pop("num_classes", cfg.num_classes)
    in_chans = settings.pop("in_chans", cfg.input_size[0])
    features = settings.pop("features_only", False)
    wrapping = {name: settings.pop(name) for name in ("out_indices", "feature_cls") if name in settings}
    passing = {name: settings.pop(name) for name in ("pretrained_model_args",) if name in settings}
    if settings.pop("global_pool", "avg") != "avg":
        raise UsageError(f"{row.name} pools by averaging; forward_features gives the map before it")

    ours = pretrained and _own_weights(cfg) is not None
    if ours and cache_dir is not None:
        raise UsageError("cache_dir is where timm keeps its downloads; PYRAMIDZOO_CACHE names the zoo's folder")
    model = create_model(
        row.name,
        weights=_check_weights(row, cfg, in_chans) if ours else None,
        num_classes=0 if features else num_classes,
        in_chans=in_chans,
        **settings,
    )
    cfg = complete_cfg(cfg, model)
    if features:
        passing |= {"features_only": True, "feature_cfg": _feature_arguments(row, model, **wrapping)}
    return build_model_with_cfg(
        lambda **_: model,
        NAME_PREFIX + row.name,
        pretrained and not ours,
        pretrained_cfg=dataclasses.asdict(cfg),
        cache_dir=cache_dir,
        num_classes=model.num_classes,
        in_chans=in_chans,
        **passing,
    )


def complete_cfg(cfg: PretrainedCfg, model: ImageClassifier) -> PretrainedCfg:
    """Add what depends on the network to a configuration.

    Args:
        cfg: the configuration.
        model: the network.

    Returns:
        The configuration with the names of the stem and the classifier, and with the size of the last feature map.
    """
    reduction = model.feature_info[-1]["reduction"]
    return dataclasses.replace(
        cfg,
        first_conv=model.stem_name,
        classifier=model.classifier_name,
        pool_size=tuple(-(-size // reduction) for size in cfg.input_size[1:]),
    )


def _own_weights(cfg: PretrainedCfg) -> str | None:
    """Return the id of the weights in the manifest.

    It is "" if there are no weights at all, and None if the user has named other weights in timm's own ways.
    """
    if cfg.source or cfg.state_dict or cfg.file or cfg.hf_hub_id:
        return None
    address = str(cfg.url or "")
    return address.removeprefix(_SCHEME) if address.startswith(_SCHEME) or not address else None


def _check_weights(row: Architecture, cfg: PretrainedCfg, in_chans: int) -> str:
    """Return the id of the weights. They must exist and read images with so many channels."""
    manifest = load_manifest()
    entry = manifest.find(_own_weights(cfg) or manifest.find_by_tag(row.name).id)
    channels = entry.preprocessing.input_size[0]
    if in_chans != channels:
        raise UsageError(
            f"{entry.id} reads {channels} channels, not in_chans={in_chans}, and the zoo adapts no stem: give it "
            f"images of {channels} channels, or start without weights (pretrained=False)"
        )
    return entry.id


def _feature_arguments(
    row: Architecture,
    model: ImageClassifier,
    *,
    out_indices: int | Sequence[int] | None = None,
    feature_cls: str = "hook",
) -> dict[str, Any]:
    """Return the arguments of timm's feature extractor: all stages, or those asked for, in the network's order."""
    if feature_cls not in ("hook", "fx"):
        raise UsageError(
            f"feature_cls {feature_cls!r} would run a network's parts one by one and lose what is between them; "
            'use "hook" (the default) or "fx"'
        )
    count = len(model.feature_info)
    if out_indices is None or isinstance(out_indices, int):
        asked = list(range(-(count if out_indices is None else out_indices), 0))
    else:
        asked = list(out_indices)
    if not asked or not all(-count <= index < count for index in asked):
        raise UsageError(
            f"{row.name} has {count} feature maps, 0 to {count - 1}; out_indices={out_indices} asks for others"
        )
    return {"feature_cls": feature_cls, "out_indices": tuple(sorted({index % count for index in asked}))}
