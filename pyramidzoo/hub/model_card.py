"""The card of published weights (README.md on the Hub): what they are, what was measured, how to use them, whose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pyramidzoo import __version__
from pyramidzoo.catalog.architectures import Architecture, get_architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import Claim, License, Result, WeightsEntry
from pyramidzoo.evaluation.metrics import ERROR, error_percent, wilson_interval
from pyramidzoo.evaluation.verdicts import claim_verdict

_TASK = "image-classification"
# as the Hub spells them (hub-docs, repositories-licenses)
_LICENSES = {
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "isc", "mit", "unlicense"),
    *("cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0"),
}
# name for people, and the Hub's id where the images are there
_DATASETS: Mapping[str, tuple[str, str | None]] = {
    "cifar10": ("CIFAR-10", "uoft-cs/cifar10"),
    "cifar100": ("CIFAR-100", "uoft-cs/cifar100"),
    "svhn": ("SVHN", "ufldl-stanford/svhn"),
    "mnist": ("MNIST", "ylecun/mnist"),
    "fashion_mnist": ("Fashion-MNIST", "zalando-datasets/fashion_mnist"),
    "imagenet1k": ("ImageNet-1k", "ILSVRC/imagenet-1k"),
    "digits": ("Optical Recognition of Handwritten Digits (UCI)", None),
}
_VERDICTS = {
    "matched": "equal at the printed rounding, but for 2 images in 10,000 that may fall differently on another machine",
    "different": "these very weights give another error here than was published",
}


@dataclass(frozen=True)
class Facts:
    """What is known of the published file beside the manifest's entry.

    `timm_name` is timm's own name for the network where its class reads the file, else None; `conversion` says what
    happened to the values on the way, None where nothing did.
    """

    repo_id: str
    parameters: int
    timm_name: str | None
    sha256: str
    bytes: int
    tensors_sha256: str
    conversion: str | None


def card(entry: WeightsEntry, facts: Facts) -> str:
    """The whole card: metadata for the Hub, then the text. `entry.results` are what was measured."""
    row = get_architecture(entry.architecture)
    parts = [
        f"# {entry.id}",
        _introduction(entry, row, facts),
        f"## Measured\n\n{_measured(entry)}",
        f"## Images\n\n{in_words(entry.preprocessing)}",
        f"## Use\n\n{_usage(entry, facts)}",
        f"## Whose, and from where\n\n{_provenance(entry, facts)}",
    ]
    return f"---\n{metadata(entry, facts).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def metadata(entry: WeightsEntry, facts: Facts) -> ModelCardData:
    """What the Hub reads: licence, library, data set, and every measured number as a model-index."""
    row = get_architecture(entry.architecture)
    dataset = _DATASETS.get(entry.dataset, (entry.dataset, None))[1]
    library = "timm" if facts.timm_name else "pyramidzoo"
    return ModelCardData(
        **hub_license(entry.license.weights),
        library_name=library,
        pipeline_tag=_TASK,
        tags=[_TASK, "timm", "pyramidzoo", row.family, row.name],
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"],
        model_name=entry.id,
        eval_results=[number for result in entry.results for number in _evaluated(entry, result)],
    )


def hub_license(spdx: str | None) -> dict[str, Any]:
    """A licence in the Hub's own terms; one that it does not list keeps its name."""
    name = str(spdx).lower()
    return {"license": name} if name in _LICENSES else {"license": "other", "license_name": str(spdx)}


def in_words(preprocessing: Preprocessing) -> str:
    """How an image becomes an input, for whoever does it without us."""
    channels, height, width = preprocessing.input_size
    kind = {1: "Grey", 3: "RGB"}.get(channels, f"{channels}-channel")
    steps = [f"{kind} images"]
    if preprocessing.resize is None and preprocessing.crop is None:
        steps = [f"{kind} images of {width} x {height} pixels, as they are"]
    if preprocessing.resize is not None:
        steps.append(
            f"the shorter side resized to {preprocessing.resize} pixels ({preprocessing.interpolation or 'bilinear'})"
        )
    if preprocessing.crop is not None:
        steps.append(f"the middle {preprocessing.crop} x {preprocessing.crop} cropped")
    constants = render_table(
        ["channel", "mean", "standard deviation"],
        [
            [name, str(mean), str(std)]
            for name, mean, std in zip(
                {1: ["grey"], 3: ["red", "green", "blue"]}.get(channels, list(map(str, range(channels)))),
                preprocessing.mean,
                preprocessing.std,
                strict=True,
            )
        ],
    )
    return (
        f"{', '.join(steps)}. Values are divided by 255; then the mean is subtracted, and the result divided by the "
        f"standard deviation these weights were trained with:\n\n{constants}"
    )


def render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is one in plain text too: columns that begin with a digit in every row stand right."""
    lines = [list(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(columns))]
    right = [all(re.match(r"[\d-]", row[k]) for row in rows) for k in range(len(columns))]
    rule = [f"{'-' * (width - 1)}:" if to_right else "-" * width for width, to_right in zip(widths, right, strict=True)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def _evaluated(entry: WeightsEntry, result: Result) -> list[EvalResult]:
    """Top-1 and top-5 accuracy of one measurement, with the counts they are made of."""
    name, hub_id = _DATASETS.get(entry.dataset, (entry.dataset, None))
    return [
        EvalResult(
            task_type=_TASK,
            task_name="Image Classification",
            dataset_type=hub_id or entry.dataset,
            dataset_name=name,
            dataset_split=result.split,
            metric_type="accuracy",
            metric_name=f"{label} accuracy",
            metric_value=round(correct / result.images, 6),
            metric_args={"correct": correct, "images": result.images, "precision": result.precision},
        )
        for label, correct in (("top-1", result.top1_correct), ("top-5", result.top5_correct))
    ]


def _introduction(entry: WeightsEntry, row: Architecture, facts: Facts) -> str:
    dataset = _DATASETS.get(entry.dataset, (entry.dataset, None))[0]
    size = " x ".join(map(str, entry.preprocessing.input_size[1:]))
    first = entry.results[0]
    wrong = first.images - first.top1_correct
    lines = [
        f"{row.description}, trained on {dataset}: **{error_percent(wrong, first.images):.2f} % top-1 error**, "
        f"{wrong:,} of {first.images:,} {first.split} images wrong.",
        f"{facts.parameters:,} parameters, {entry.num_classes:,} classes, images of {size} pixels. "
        f"The network: {_linked(row.source)}.",
    ]
    if entry.arguments:
        lines.append("Built with " + ", ".join(f"{name}={value!r}" for name, value in entry.arguments.items()) + ".")
    if entry.training:
        lines.append(f"Training: {entry.training.rstrip('.')}.")
    return "\n\n".join(lines)


def _measured(entry: WeightsEntry) -> str:
    counted = render_table(
        ["split", "images", "wrong", "top-1 error", "95 % interval", "top-5 wrong", "top-5 error"],
        [_counted(result) for result in entry.results],
    )
    parts = [counted, _interval_note(entry.results)]
    if entry.claims:
        rows = [_compared(claim, entry.results) for claim in entry.claims]
        parts.append(
            "Against what was published for these very weights:\n\n"
            + render_table(["published by", "top-1 error", "statistic", "measured", "verdict"], rows)
        )
        parts.append(_claims_note(entry.claims, {row[-1] for row in rows}))
    parts.append("\n".join(_circumstances(result) for result in entry.results))
    return "\n\n".join(parts)


def _counted(result: Result) -> list[str]:
    wrong, wrong5 = result.images - result.top1_correct, result.images - result.top5_correct
    low, high = wilson_interval(wrong, result.images)
    return [
        result.split,
        f"{result.images:,}",
        f"{wrong:,}",
        f"{error_percent(wrong, result.images):.2f} %",
        f"{low:.2f} to {high:.2f} %",
        f"{wrong5:,}",
        f"{error_percent(wrong5, result.images):.2f} %",
    ]


def _interval_note(results: Sequence[Result]) -> str:
    means = [f"{value:.3f} % ({name})" for result in results for name, value in result.statistics.items()]
    other = f" By another statistic: {'; '.join(means)}." if means else ""
    return f"The interval (Wilson) is what another test set of this size might give.{other}"


def _compared(claim: Claim, results: Sequence[Result]) -> list[str]:
    """A published error, ours by its own statistic, and the verdict; only strict measurements of its kind count."""
    published = [claim.by, f"{claim.top1_error} %", claim.statistic]
    for result in results:
        wrong = result.images - result.top1_correct
        ours = {ERROR: error_percent(wrong, result.images), **result.statistics}.get(claim.statistic)
        same = (claim.split, claim.protocol, "fp32") == (result.split, result.protocol, result.precision)
        if same and ours is not None:
            return [*published, f"{ours:.3f} %", claim_verdict(claim.top1_error, ours, result.images)]
    return [*published, "-", f"not measured that way ({claim.split}, {claim.protocol})"]


def _claims_note(claims: Sequence[Claim], verdicts: set[str]) -> str:
    """Where the errors were published, and what the verdicts mean that occur."""
    sources = "; ".join(dict.fromkeys(claim.source for claim in claims))
    meant = [f"{name}: {text}" for name, text in _VERDICTS.items() if name in verdicts]
    return "; ".join([f"Published in {sources}", *meant]) + "."


def _circumstances(result: Result) -> str:
    torch = f", torch {result.versions['torch']}" if "torch" in result.versions else ""
    return (
        f"Measured on {result.date} by `pyramidzoo evaluate` ({result.split}: {result.protocol}) in {result.precision} "
        f"on {result.device}{torch}; sha256 of all predictions: `{result.prediction_sha256}`."
    )


def _usage(entry: WeightsEntry, facts: Facts) -> str:
    file = f'file = hf_hub_download("{facts.repo_id}", "model.safetensors")'
    register = "" if facts.timm_name else "\npyramidzoo.register_with_timm()"
    imports = "import timm" if facts.timm_name else "import pyramidzoo\nimport timm"
    reads = (
        f"timm's own `{facts.timm_name}` reads this file; nothing else is needed"
        if facts.timm_name
        else "timm has no such network of its own; pyramidzoo brings it"
    )
    return f"""With pyramidzoo:

```python
import pyramidzoo
from huggingface_hub import hf_hub_download

{file}
model = pyramidzoo.create_model("{entry.architecture}", weights=file).eval()
transform = pyramidzoo.eval_transform(model.preprocessing)  # from a PIL image to an input
```

With torch.hub:

```python
import torch
from huggingface_hub import hf_hub_download

{file}
model = torch.hub.load("pyramidzoo/pyramidzoo:v{__version__}", "{entry.architecture}", weights=file).eval()
```

With timm ({reads}):

```python
{imports}
{register}
model = timm.create_model("hf-hub:{facts.repo_id}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))
```

`pyramidzoo evaluate model.safetensors` counts the errors above again."""


def _provenance(entry: WeightsEntry, facts: Facts) -> str:
    origin = entry.origin
    lines = [
        ("Weights by", entry.citation and _linked(entry.citation)),
        ("Licence", _licences(entry.license)),
        ("Original file", origin and (f"<{origin.url}>" + (f": {origin.manual}" if origin.manual else ""))),
        ("Its hash", origin and origin.hash and _hash(str(origin.hash))),
        ("Converted by pyramidzoo", facts.conversion),
        ("This file", f"`model.safetensors`, {facts.bytes:,} bytes, sha256 `{facts.sha256}`"),
        ("Its tensors", f"sha256 `{facts.tensors_sha256}` over names, dtypes, shapes and values, in any container"),
    ]
    return "\n".join(f"- **{label}:** {value}" for label, value in lines if value)


def _licences(license: License) -> str:
    if license.code in (None, license.weights):
        return str(license.weights)
    return f"{license.weights}; the code they were trained with: {license.code}"


def _hash(text: str) -> str:
    return re.sub(r"\b([0-9a-f]{8,})\b", r"`\1`", text)


def _linked(source: str) -> str:
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
