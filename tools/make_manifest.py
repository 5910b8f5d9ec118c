"""Write weights_manifest.json from facts.json: what is published where, by whom, with which hash, error and licence.

    python tools/make_manifest.py                    write the manifest
    python tools/make_manifest.py --list             say of every record which entry it makes, or why it makes none
    python tools/make_manifest.py --reduce SOURCES   write facts.json, reduced from the collected records

Entries written by hand stay as they are, and so do all `results` and `tensors_sha256` (measured, by
`record_results.py`), the places that `pyramidzoo publish --write` has set, and the defaults, because what
`weights="cifar10"` loads must not change. Nothing is guessed: what no record says is null.

Reducing keeps of a record what an entry needs, and only the identity of one that makes none. Published numbers become
strings with the digits that their publisher prints; a commit is kept only in full (40 digits), a size only in bytes.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import FILE_NAME, FORMAT, read_manifest
from pyramidzoo.catalog.weights_entry import License
from pyramidzoo.files import write_text

MANIFEST = Path(__file__).resolve().parents[1] / FILE_NAME
FACTS = Path(__file__).with_name("facts.json")

Fact = Mapping[str, Any]

BY_HAND = (
    "resnet20_fattorib.cifar10",
    "resnet32_fattorib.cifar10",
    "resnet44_fattorib.cifar10",
    "resnet56_fattorib.cifar10",
    "resnet20.cifar10_akamaster",
    "resnet32.cifar10_akamaster",
    "wrn_16_1.cifar10_ferles",
    "wrn_16_2.cifar10_ferles",
    "wrn_40_1.cifar10_ferles",
    "wrn_16_1.digits_zoo",
    "resnet20.digits_zoo",
)

_OTHER_POOLING = "trained and measured with a first pooling of other windows than the one of seresnet* and senet154"

# records that make no entry, and why; the first pattern that fits decides
NO_ENTRY = (
    ("none/*", "no public weights were found"),
    ("hub/timm/resnetv2_*", "timm's resnetv2 is another graph, with names of its own"),
    ("hub/timm/resnet50.bamboo", "trained for the classes of Bamboo, not those of ImageNet-1k"),
    ("timm_url/legacy_se*", _OTHER_POOLING),
    ("hub/lucid-dl/*", "a re-upload of torchvision's and timm's weights with other names; the originals are here"),
    ("hub/theunnecessarythings/*", "a re-upload that says neither which weights nor which licence"),
    ("hub/edadaltocg/densenet121_*", "DenseNet-BC (6, 12, 24, 16) with growth rate 12: no graph of the zoo"),
    ("hub/edadaltocg/vgg16_bn_*", "timm's VGG with a head of 512: no graph of the zoo; a pickle on the Hub"),
    ("hub/edadaltocg/*", "ImageNet's ResNet with a 3x3 stem and no pooling: no graph of the zoo"),
    (
        "hub/grodino/*",
        "evaluated on CIFAR images scaled to 224 pixels, which is not done here; no accuracy, no hash",
    ),
    ("hub/WNJXYK/*", "normalises inside the network (buffers mu and sigma), which no layout covers; no hash"),
    ("hub/cc13qq/*", "no licence, no accuracy, no preprocessing, unknown names"),
    ("hub/emaballarin/*", "an adversarially trained variant under a restrictive licence"),
    ("hub/badrmarani/*", "no licence and no accuracy"),
    ("hub/jialicheng/*", "names of transformers, which no layout covers"),
    ("hub/torch-uncertainty/*", "ImageNet's ResNet with a 3x3 stem: no graph of the zoo; a Lightning checkpoint"),
    ("hub/anonauthors/*", "no accuracy; a pickle on the Hub"),
    ("hub/lixiao985/*", "no graph of the zoo; its accuracy is known from the file's name alone"),
    ("hub/tsilva/*", "ONNX only"),
    ("outlier-exposure/*", "names of xternalz/WideResNet-pytorch without a wrapper, which no layout covers"),
    ("fast-autoaugment/*pyramid272*", "ShakeDrop, whose factors would have to be folded into BN"),
    ("fast-autoaugment/*wresnet*", "convolutions with biases: another graph"),
    ("fast-autoaugment/*shake*", "no layout covers its names"),
    ("fast-autoaugment/*", "no layout covers its names; no hash"),
    ("cutmix-pytorch/resne*", "what its training scripts saved beside the weights has not been seen; no hash"),
    ("dyhan0920/pyramidnet101_a360", "the same weights as pyramidnet101_a360.imagenet1k_dyhan, without a hash"),
    ("jhkim89/*-caffe", "Caffe's format, which nothing here reads"),
    ("fb.resnet.torch/resnet50", "its units have a BN after the sum: another graph than resnet50"),
    ("robustbench/Standard_wrn_28_10", "no layout covers its names; no hash"),
    ("robustbench/*", "normalises inside the network, which no layout covers; no hash"),
    ("odin/*", "whole pickled modules, which weights_only=True refuses"),
    ("mahalanobis/resnet34_*", "ImageNet's ResNet with a 3x3 stem: no graph of the zoo; no licence, no accuracy"),
    ("mahalanobis/*", "no licence, no accuracy, no hash"),
    ("prlz77/*", "one folder for two data sets, without names, hash or an error of these very weights"),
    ("huyvnphan/*", "ImageNet's networks on 32x32 images, in one archive of many files: no graph of the zoo"),
    ("gluoncv/*", "MXNet's format, which nothing here reads"),
    ("mmpretrain/*_cifar*", "ImageNet's ResNet with a 3x3 stem: no graph of the zoo"),
    ("mmpretrain/*", "names of OpenMMLab, which no layout covers"),
    ("cadene/*", _OTHER_POOLING),
    ("moskomule/*", "no layout covers its names, and the hash in its name is of an unknown kind"),
)

SPDX = {
    "apache-2.0": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "mit": "MIT",
}
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "imagenet1k": 1000}
SPLITS = {"cifar10": "test", "cifar100": "test", "svhn": "test", "imagenet1k": "val"}
WITH_ORIGIN = ("_fattorib", "_pytorchcv", "_chenyaofo", "_hysts", "_bearpaw")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class Group:
    """What the files of one publisher have in common.

    `name` says which architecture a record is of, and what follows the data set in its id. `layout` is None where the
    names are the zoo's own. `protocol` says where it is written how images of ImageNet were prepared for the published
    errors; where neither it nor the record says so, the claims' protocol is "not stated". `digits` is how many decimals
    the publisher prints, None where each number says it itself; `accuracy` whether it prints accuracies, of which the
    error is 100 minus. `weights_licence` "record" is what the record says, else what it says there. `training` is what
    is known of it beside the data set. `manual` is what to look for on a page that no program can download from.
    """

    name: Callable[[Fact], tuple[str, str]]
    layout: str | None
    by: str
    source: str
    citation: str
    format: str = "torch"
    digits: int | None = 2
    accuracy: bool = False
    code_licence: str | None = "record"
    weights_licence: str | None = "record"
    resize: int = 256
    interpolation: str = "bilinear"
    protocol: str | None = None
    training: Callable[[Fact], str | None] = lambda fact: None
    manual: Callable[[Fact], str] | None = None


def _last(fact: Fact) -> str:
    return str(fact["id"]).rpartition("/")[2]


def _pytorchcv(fact: Fact) -> tuple[str, str]:
    imagenet = fact["dataset"] == "imagenet1k"
    name = _last(fact) if imagenet else _last(fact).removesuffix(f"_{fact['dataset']}")
    return (_pytorchcv_imagenet(name) if imagenet else _pytorchcv_cifar(name)), "pytorchcv"


def _pytorchcv_cifar(name: str) -> str:
    """The exact graph behind a name of pytorchcv for 32x32 images."""
    if found := re.fullmatch(r"(pre)?resnet(20|56|110|1202)", name):
        return f"{name}_rawid" if found[1] else f"{name}_b"
    if found := re.fullmatch(r"(pre)?resnet(\d+)(bn)?", name):
        return f"preresnet{found[2]}_s3" if found[1] else f"resnet{found[2]}"
    if found := re.fullmatch(r"(se(?:pre)?resnet\d+)(bn)?", name):
        return found[1]
    if found := re.fullmatch(r"densenet(\d+)_k(\d+)(_bc)?", name):
        return f"densenet_{'bc' if found[3] else 'c'}_{found[1]}_k{found[2]}"
    if found := re.fullmatch(r"wrn(\d+)_(\d+)", name):
        return f"wrn_{found[1]}_{found[2]}"
    if found := re.fullmatch(r"(pyramidnet\d+_a\d+)(_bn)?", name):
        return found[1]
    if found := re.fullmatch(r"shakeshakeresnet(\d+_\w+)", name):
        return f"shakeshake{found[1]}_pytorchcv"
    return name


def _pytorchcv_imagenet(name: str) -> str:
    """The exact graph behind a name of pytorchcv for ImageNet: its final b puts the stride into the 3x3."""
    if found := re.fullmatch(r"((?:se)?resnet|preresnet|sepreresnet)bc(\d+)b", name):
        return f"{found[1]}{found[2]}_bottleneck" + ("_pytorchcv" if found[1] == "preresnet" else "")
    if found := re.fullmatch(r"((?:se)?resnet)(50|101|152)(b?)", name):
        return f"{found[1]}{found[2]}" + ("" if found[3] else "_s1")
    if found := re.fullmatch(r"preresnet(50|101|152|200|269)(b?)", name):
        size = "50_imagenet" if found[1] == "50" else found[1]  # preresnet50 is CIFAR's
        return f"preresnet{size}{'' if found[2] else '_s1'}_pytorchcv"
    if name.startswith("preresnet"):
        return f"{name}_pytorchcv"
    if found := re.fullmatch(r"bn_vgg(\d+)(b?)", name):
        return f"vgg{found[1]}_bn" + ("" if found[2] else "_nobias")
    return {"sepreresnet50b": "sepreresnet50", "wrn50_2": "wide_resnet50_2"}.get(name, name)


_OLD_PYTORCHCV = {
    "pyramidnet101_a360-0620": ("pyramidnet101_a360", "dyhan"),
    "wrn50_2-0641": ("wide_resnet50_2", "functional_zoo_pytorchcv"),
    "preresnet200b-0588": ("preresnet200_pytorchcv", "tornadomeet"),
    "senet154-0461": ("senet154", "cadene"),
}
_BEARPAW = {
    "resnet110": "resnet164",  # bottleneck units, as many in each stage as ResNet-110 has basic ones
    "vgg19_bn": "vgg19_bn_bearpaw",
    "wrn_28_10_dropout": "wrn_28_10",
    "densenet_bc_100_12": "densenet_bc_100_k12",
    "densenet_bc_190_40": "densenet_bc_190_k40",
    "preresnet110": "preresnet164_bearpaw",
}


def _chenyaofo(fact: Fact) -> tuple[str, str]:
    name = _last(fact).partition("_")[2]
    return (f"{name}_b" if name.startswith("resnet") else f"{name}_chenyaofo"), "chenyaofo"


def _bearpaw(fact: Fact) -> tuple[str, str]:
    name = _last(fact).removesuffix(f"_{fact['dataset']}")
    return _BEARPAW.get(name, name), "bearpaw"


def _timm(fact: Fact) -> tuple[str, str]:
    architecture, _, tag = _last(fact).partition(".")
    return architecture, "timm_" + tag.removesuffix("_in1k")


def _torchvision(fact: Fact) -> tuple[str, str]:
    _, architecture, version = fact["id"].split("/")
    return architecture, "tv_" + version.rpartition("_")[2].lower()


def _clovaai(fact: Fact) -> tuple[str, str]:
    return "pyramidnet200_a240", "clovaai_" + _last(fact).partition("_cifar100_")[2]


def _trained_by_pytorchcv(fact: Fact) -> str | None:
    if fact["dataset"] == "svhn":
        return "on the 73,257 images of the split train alone, without those of extra"
    if fact["id"] == "pytorchcv-old/senet154-0461":
        return (
            "by others, with a first pooling of other windows (no padding, sizes rounded up); the claim is "
            "pytorchcv's, measured with the pooling of this network"
        )
    return None


def _trained_by_bearpaw(fact: Fact) -> str | None:
    return "with dropout 0.3" if "_dropout_" in fact["id"] else None


def _trained_by_timm(fact: Fact) -> str | None:
    for tag, how in _TIMM_TRAINING.items():
        if f".{tag}_" in fact["id"]:
            return how
    return None


_TIMM_TRAINING = {
    "fb_ssl_yfcc100m_ft": "semi-supervised on the images of YFCC100M, then on ImageNet-1k",
    "fb_swsl_ig1b_ft": "semi-weakly supervised on a billion images of Instagram with hashtags, then on ImageNet-1k",
    "fb_wsl_ig1b_ft": "weakly supervised on a billion images of Instagram with hashtags, then on ImageNet-1k",
}
_CLOVAAI_TRAINING = {
    "cutmix": "with CutMix",
    "mixup": "with Mixup",
    "manifold_mixup": "with Manifold Mixup",
    "cutout": "with Cutout",
    "dropblock": "with DropBlock",
    "cutout_ls": "with Cutout and label smoothing",
    "dropblock_ls": "with DropBlock and label smoothing",
    "cutout_mixup": "with Cutout and Mixup",
}
_FB_PROTOCOL = "datasets/{imagenet,transforms}.lua of fb.resnet.torch: Scale(256), bicubic, CenterCrop(224)"


GROUPS: Mapping[str, Group] = {
    "pytorchcv": Group(
        _pytorchcv,
        layout="pytorchcv",
        by="pytorchcv",
        source="pytorchcv 0.0.74, models/common/model_metainfos.csv and its table of models",
        citation="Oleg Sémery, https://github.com/osmr/imgclsmob",
        format="zip of torch",
        protocol="pytorchcv's table of models: 224 pixels, 0.875 of the resized image, bilinear",
        training=_trained_by_pytorchcv,
    ),
    "pytorchcv-old": Group(
        lambda fact: _OLD_PYTORCHCV[_last(fact)],
        layout="pytorchcv",
        by="pytorchcv",
        source="osmr/imgclsmob@b9ee37ca~1:pytorch/README.md",
        citation="Oleg Sémery, https://github.com/osmr/imgclsmob",
        format="zip of torch",
        code_licence="MIT",
        protocol="pytorch/README.md: 224 pixels, 0.875 of the resized image, bilinear",
        training=_trained_by_pytorchcv,
    ),
    "akamaster": Group(
        lambda fact: (_last(fact), "akamaster"),
        layout="akamaster",
        by="akamaster",
        source="https://github.com/akamaster/pytorch_resnet_cifar10, README",
        citation="Yerlan Idelbayev, https://github.com/akamaster/pytorch_resnet_cifar10",
    ),
    "fattorib": Group(
        lambda fact: (f"{_last(fact)}_fattorib", "fattorib"), layout="fattorib", by="fattorib", source="", citation=""
    ),
    "chenyaofo": Group(
        _chenyaofo,
        layout="chenyaofo",
        by="chenyaofo",
        source="chenyaofo/pytorch-cifar-models@786c16252c0fc58ee9adac063f8337cc4a7a497a:README.md",
        citation="https://github.com/chenyaofo/pytorch-cifar-models",
        accuracy=True,
        training=lambda fact: "the epoch that was best on the test set",
    ),
    "torchvision": Group(
        _torchvision,
        layout="torchvision",
        by="torchvision",
        source="torchvision 0.29.2, the enumeration of its weights",
        citation="https://github.com/pytorch/vision",
        digits=3,
        accuracy=True,
        protocol="the transforms of torchvision's weights",
    ),
    "hub": Group(
        _timm,
        layout=None,
        by="timm",
        source="huggingface/pytorch-image-models@aa4b5850c1543fa488abf260f18390eda46cf85d:results/results-imagenet.csv",
        citation="Ross Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models",
        digits=3,
        code_licence="Apache-2.0",
        protocol="the table itself: size, part of the resized image, interpolation",
        training=_trained_by_timm,
    ),
    "bearpaw": Group(
        _bearpaw,
        layout="bearpaw",
        by="bearpaw",
        source="bearpaw/pytorch-classification@24f1c456f48c78133088c4eefd182ca9e6199b03:README.md",
        citation="https://github.com/bearpaw/pytorch-classification",
        weights_licence=None,  # the files are not in the repository
        training=_trained_by_bearpaw,
        manual=lambda fact: f"the checkpoint of {_last(fact).replace('_cifar', ' for CIFAR-')}",
    ),
    "cutmix-pytorch": Group(
        _clovaai,
        layout="dyhan",
        by="clovaai",
        source="clovaai/CutMix-PyTorch@2d8eb68faff7fe4962776ad51d175c3b01a25734:README.md",
        citation="Yun et al. 2019, CutMix (arXiv:1905.04899), https://github.com/clovaai/CutMix-PyTorch",
        code_licence="MIT",
        weights_licence=None,
        training=lambda fact: _CLOVAAI_TRAINING.get(_clovaai(fact)[1].removeprefix("clovaai_")),
        manual=lambda fact: str(fact["filename"]),
    ),
    "jhkim89": Group(
        lambda fact: (_last(fact).partition("-")[0].removesuffix("_dropout"), "jhkim89"),
        layout="torch7",
        by="jhkim89",
        source="jhkim89/PyramidNet@27d168ee586e44793128b645a41817254bbb1695:README.md",
        citation="Han, Kim & Kim 2017, Deep Pyramidal Residual Networks (arXiv:1610.02915)",
        format="torch7",
        code_licence="none stated",
        weights_licence="none stated",
        interpolation="bicubic",
        protocol=_FB_PROTOCOL,  # "single-crop (224*224)", with the code of fb.resnet.torch, says the README
        training=lambda fact: "with dropout 0.5" if "_dropout" in fact["id"] else None,
        manual=lambda fact: f"the Torch7 file (.t7) of {_last(fact).partition('-')[0]}",
    ),
    "fb.resnet.torch": Group(
        lambda fact: (_last(fact), "fb"),
        layout="torch7",
        by="fb.resnet.torch",
        source="facebookarchive/fb.resnet.torch@985e569d468d23baeef5b952954dcdf3c61c5e73:pretrained/README.md",
        citation="https://github.com/facebookarchive/fb.resnet.torch",
        format="torch7",
        code_licence="BSD-3-Clause",
        weights_licence=None,  # the licence is for the software, and comes with a grant of patents that can end
        interpolation="bicubic",
        protocol=_FB_PROTOCOL,
    ),
    "facebookresearch": Group(
        lambda fact: (_last(fact), "fb"),
        layout="torch7",
        by="facebookresearch/ResNeXt",
        source="facebookresearch/ResNeXt@1f59a2c:README.md",
        citation="Xie et al. 2017, ResNeXt (arXiv:1611.05431), https://github.com/facebookresearch/ResNeXt",
        format="torch7",
        digits=None,
        code_licence="BSD-3-Clause",
        weights_licence="CC-BY-NC-4.0",  # its README, of the pretrained models
        interpolation="bicubic",
        protocol=_FB_PROTOCOL,  # "Single-crop (224x224)", says the README, and its datasets/imagenet.lua is the same
    ),
}
SINGLE: Mapping[str, Group] = {
    "szagoruyko/wrn-50-2-torch7": Group(
        lambda fact: ("wide_resnet50_2", "szagoruyko"),
        layout="torch7",
        by="szagoruyko",
        source="szagoruyko/wide-residual-networks@ae6d0d0561484172790c7a63c8ce6ade5a5a2914:pretrained/README.md",
        citation="Zagoruyko & Komodakis 2016, Wide Residual Networks (arXiv:1605.07146)",
        format="torch7",
        digits=None,
        weights_licence=None,
        interpolation="bicubic",
        manual=lambda fact: "the Torch7 file (.t7) of WRN-50-2, 263 MB",
    ),
    "szagoruyko/functional-zoo-wrn-50-2": Group(
        lambda fact: ("wide_resnet50_2", "functional_zoo"),
        layout="functional_zoo",
        by="szagoruyko",
        source="szagoruyko/functional-zoo@03741295dc2d06d9f54016cb27da41da5d1aedb2:README.md",
        citation="Zagoruyko & Komodakis 2016, Wide Residual Networks (arXiv:1605.07146)",
        digits=None,
        interpolation="bicubic",  # as for the Torch7 file; the README states errors alone
    ),
}

# what was found after the records were collected
LATER = {
    "densenet_bc_100_k12.cifar10_dice": {
        "architecture": "densenet_bc_100_k12",
        "arguments": {},
        "dataset": "cifar10",
        "default": False,
        "num_classes": 10,
        "preprocessing": {
            "input_size": [3, 32, 32],
            "mean": list(CIFAR10[0]),
            "std": list(CIFAR10[1]),
            "resize": None,
            "crop": None,
            "interpolation": None,
        },
        "bundled": None,
        "hub": None,
        "origin": {
            "url": "https://github.com/deeplearning-wisc/dice/raw/8acfb8d52eee997a7bf6f9d17ff5363fd91ba47b/"
            "checkpoints/CIFAR-10/densenet/checkpoint_100.pth.tar",
            "format": "torch",
            "bytes": 3381795,
            "hash": {
                "algorithm": "sha256",
                "of": "file",
                "value": "deaefd082911a1c6c92aacdcfecf03c71b932acc5c08b779c85c44eccdc0c817",
            },
            "layout": "dice",
            "manual": None,
        },
        "tensors_sha256": None,
        "claims": [],
        "results": [],
        "license": {"code": "MIT", "weights": "MIT"},
        "training": None,
        "citation": "Sun & Li 2022, DICE (arXiv:2111.09805), https://github.com/deeplearning-wisc/dice",
    }
}


def group_of(record_id: str) -> Group | str:
    """The publisher's group of a record, or the reason why it makes no entry. An unknown record is a ValueError."""
    for pattern, reason in NO_ENTRY:
        if fnmatchcase(record_id, pattern):
            return reason
    group = SINGLE.get(record_id) or GROUPS.get(record_id.partition("/")[0])
    if group is None:
        raise ValueError(f"{record_id} is in no group, and nothing says why it makes no entry")
    return group


def reduce(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a collected record is kept."""
    group = group_of(record["id"])
    if isinstance(group, str):
        return {"id": record["id"]}
    metrics = [_printed(metric, group) for metric in record["metrics"][:1]]
    git = re.search(r"git blob sha1 ([0-9a-f]{40})", " ".join(record["notes"]))
    kept = {
        "id": record["id"],
        "dataset": record["dataset"],
        "repo_id": record["repo_id"],
        "filename": record["filename"],
        "url": record["url"],
        "revision": record["revision"] if record["revision_kind"] == "full" else None,
        "sha256": record["sha256"],
        "sha_algo": record["sha_algo"],
        "sha_value": record["sha_value"],
        "inside_zip": "inside the zip" in (record["sha_is"] or "").lower(),
        "git_blob_sha1": git and git[1],
        "bytes": record["size_bytes"],
        "licence": record["license"],
        "num_params": record["num_params"],
        "mean": (record["preprocessing"] or {}).get("mean"),
        "std": (record["preprocessing"] or {}).get("std"),
        "resize": ((record["preprocessing"] or {}).get("resize_size") or [None])[0],
        "crop": ((record["preprocessing"] or {}).get("crop_size") or [None])[0],
        "interpolation": (record["preprocessing"] or {}).get("interpolation"),
        "metric": metrics[0] if metrics else None,
    }
    return {name: value for name, value in kept.items() if value not in (None, False)}


def _printed(metric: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """A published metric with its digits, as it was printed: an accuracy or an error."""
    names = ("top1", "top5") if group.accuracy else ("top1_err", "top5_err")
    digits = group.digits
    values = {name: metric.get(name) for name in names}
    text = {n: str(v) if digits is None else f"{v:.{digits}f}" for n, v in values.items() if v is not None}
    return {**text, **{name: metric[name] for name in ("img_size", "crop_pct", "interpolation") if name in metric}}


def entries(facts: list[Fact]) -> Iterator[tuple[Fact, str, dict[str, Any] | None]]:
    """Every record with the id and the content of its entry; None for an entry that was written by hand.

    Instead of an id there is the reason where a record makes no entry, with None.
    """
    for fact in facts:
        group = group_of(fact["id"])
        if isinstance(group, str):
            yield fact, group, None
            continue
        architecture, tag = group.name(fact)
        plain = f"{architecture}.{fact['dataset']}"
        named = architecture.endswith(WITH_ORIGIN) and architecture.endswith(f"_{tag}")
        weights_id = plain if named else f"{plain}_{tag}"
        yield fact, weights_id, None if weights_id in BY_HAND else _entry(fact, group, architecture)


def _entry(fact: Fact, group: Group, architecture: str) -> dict[str, Any]:
    preprocessing = _preprocessing(fact, group)
    return {
        "architecture": architecture,
        "arguments": {},
        "dataset": fact["dataset"],
        "default": False,
        "num_classes": CLASSES[fact["dataset"]],
        "preprocessing": preprocessing,
        "bundled": None,
        "hub": _hub(fact, architecture) if "repo_id" in fact and group.by == "timm" else None,
        "origin": None if group.by == "timm" else _origin(fact, group),
        "tensors_sha256": None,
        "claims": _claims(fact, group, preprocessing),
        "results": [],
        "license": {
            "code": _licence(fact, group.code_licence),
            "weights": _licence(fact, group.weights_licence),
        },
        "training": group.training(fact),
        "citation": group.citation,
    }


def _preprocessing(fact: Fact, group: Group) -> dict[str, Any]:
    """What the claim was measured with: for timm the size and crop of its table of results, floor(size / crop_pct)."""
    imagenet = fact["dataset"] == "imagenet1k"
    size, resize, interpolation = 32, None, None
    if imagenet:
        metric = fact.get("metric", {}) if group.by == "timm" else {}
        size = metric.get("img_size") or fact.get("crop") or 224
        resize = math.floor(size / metric["crop_pct"]) if metric else fact.get("resize") or group.resize
        interpolation = metric.get("interpolation") or group.interpolation
    mean, std = IMAGENET if imagenet else CIFAR10
    return {
        "input_size": [3, size, size],
        "mean": fact.get("mean", list(mean)),
        "std": fact.get("std", list(std)),
        "resize": resize,
        "crop": size if imagenet else None,
        "interpolation": interpolation,
    }


def _hub(fact: Fact, architecture: str) -> dict[str, Any]:
    return {
        "repo_id": fact["repo_id"],
        "revision": fact.get("revision"),
        "filename": fact["filename"],
        "sha256": fact.get("sha256"),
        "bytes": fact.get("bytes"),
        "layout": "timm" if architecture.startswith("vgg") else None,  # all others have torchvision's names
    }


def _origin(fact: Fact, group: Group) -> dict[str, Any]:
    url = fact["url"]
    if "revision" in fact:
        url = re.sub(r"/raw/[^/]+/", f"/raw/{fact['revision']}/", url)  # a branch moves
    return {
        "url": url,
        "format": group.format,
        "bytes": fact.get("bytes"),
        "hash": _hash(fact),
        "layout": group.layout,
        "manual": group.manual(fact) if group.manual else None,
    }


def _hash(fact: Fact) -> dict[str, str] | None:
    """The strongest hash that was seen of a file."""
    of = "member" if fact.get("inside_zip") else "file"
    if "sha256" in fact:
        return {"algorithm": "sha256", "of": of, "value": fact["sha256"]}
    if "git_blob_sha1" in fact:
        return {"algorithm": "git_blob_sha1", "of": of, "value": fact["git_blob_sha1"]}
    if "sha_value" not in fact:
        return None
    algorithm = fact["sha_algo"] if len(fact["sha_value"]) > 13 else f"{fact['sha_algo']}_prefix"
    return {"algorithm": algorithm, "of": of, "value": fact["sha_value"]}


def _claims(fact: Fact, group: Group, preprocessing: Mapping[str, Any]) -> list[dict[str, Any]]:
    metric = fact.get("metric", {})
    top1 = metric.get("top1" if group.accuracy else "top1_err")
    top5 = metric.get("top5" if group.accuracy else "top5_err")
    if top1 is None:
        return []
    source = group.source
    if group.accuracy:
        source += f" (published as accuracies: {top1}, {top5})"
    protocol = "full 32x32 image, one pass"
    if preprocessing["crop"] and group.protocol is None and "resize" not in fact:
        protocol = "not stated"
    elif preprocessing["crop"]:
        protocol = "resize {resize}, center crop {crop}, one pass".format_map(preprocessing)
    return [
        {
            "by": group.by,
            "split": SPLITS[fact["dataset"]],
            "protocol": protocol,
            "statistic": "error",
            "top1_error": _error(top1, group),
            "top5_error": None if top5 is None else _error(top5, group),
            "source": source,
        }
    ]


def _error(printed: str, group: Group) -> str:
    return str(100 - Decimal(printed)) if group.accuracy else printed


def _licence(fact: Fact, rule: str | None) -> str | None:
    if rule != "record":
        return rule
    licence = fact.get("licence")
    return SPDX[licence.lower()] if licence else None


def make(facts: list[Fact], committed: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest: what was written by hand and measured comes from the `committed` one, all else from the facts."""
    before = committed["weights"]
    weights: dict[str, Any] = {weights_id: before[weights_id] for weights_id in BY_HAND}
    made = {weights_id: content for _, weights_id, content in entries(facts) if content is not None}
    for weights_id, content in {**LATER, **made}.items():
        measured = before.get(weights_id, content)
        kept = {name: measured[name] for name in ("tensors_sha256", "results", *_published(measured))}
        weights[weights_id] = {**content, **kept}
    _set_defaults(weights, before)
    return {"format": FORMAT, "weights": weights}


def _published(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that `pyramidzoo publish --write` has set: only what it published has a place of both kinds."""
    return ("hub", "origin") if entry["hub"] and entry["origin"] else ()


def _set_defaults(weights: Mapping[str, dict[str, Any]], before: Mapping[str, dict[str, Any]]) -> None:
    """One default for each architecture and data set: the one it has, else the best of those that are pinned best."""
    settled = {(e["architecture"], e["dataset"]): i for i, e in before.items() if e["default"] and i in weights}
    candidates: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for weights_id, entry in weights.items():
        candidates[entry["architecture"], entry["dataset"]].append(weights_id)
    for key, ids in candidates.items():
        if key in settled:
            weights[settled[key]]["default"] = True
        else:
            best = min(ids, key=lambda weights_id: (*_rank(weights[weights_id]), weights_id))
            weights[best]["default"] = True


def _rank(entry: Mapping[str, Any]) -> tuple[int, bool, Decimal]:
    """How surely an entry's bytes are known, surest first; whether they may not be re-published; the error."""
    hub, origin = entry["hub"] or {}, entry["origin"] or {}
    known = origin.get("hash") or {}
    if hub.get("revision") and hub.get("sha256"):
        rank = 0
    elif hub.get("sha256") or (known and known["algorithm"] != "sha256_prefix"):
        rank = 1
    elif known:
        rank = 2
    else:
        rank = 5 if origin.get("manual") else 4 if origin else 3
    error = Decimal(entry["claims"][0]["top1_error"]) if entry["claims"] else Decimal(100)
    return rank, not License(**entry["license"]).redistributable, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduce", type=Path, metavar="SOURCES")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.reduce:
        records = json.loads(args.reduce.read_text(encoding="utf-8"))
        lines = [json.dumps(reduce(record), ensure_ascii=False) for record in records]
        write_text(FACTS, "[\n" + ",\n".join(lines) + "\n]\n")
        print(f"{FACTS.name}: {len(records)} records")
        return
    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    if args.list:
        for fact, name, _ in entries(facts):
            made = "" if isinstance(group_of(fact["id"]), str) else "-> "
            print(f"{fact['id']}: {made}{name}")
        return
    manifest = make(facts, json.loads(MANIFEST.read_text(encoding="utf-8")))
    write_text(MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    without = sum(isinstance(group_of(fact["id"]), str) for fact in facts)
    print(
        f"{len(read_manifest(MANIFEST).entries)} entries; of {len(facts)} records {len(facts) - without} make one, "
        f"{without} do not (--list says why)"
    )


if __name__ == "__main__":
    main()
