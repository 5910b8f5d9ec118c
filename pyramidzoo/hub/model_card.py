"""The model card of published weights, which is the README.md of their repository on the Hub.

It says what the weights are, what was measured, how images are prepared, how to use them, and who made them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pyramidzoo import __version__
from pyramidzoo.catalog.architectures import Architecture, get_architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.training_record import describe_training
from pyramidzoo.catalog.weights_entry import Claim, License, Result, WeightsEntry
from pyramidzoo.evaluation.metrics import ERROR, error_percent, wilson_interval
from pyramidzoo.evaluation.verdicts import claim_verdict

_TASK = "image-classification"
# The licenses that the Hub lists, as it spells them (hub-docs, repositories-licenses).
_LICENSES = {
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "isc", "mit", "unlicense"),
    *("cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0"),
}
# The name for people, and the dataset's id on the Hub if the images are there.
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
    "matched": (
        "the errors are equal at the printed rounding, or differ by at most 2 images in 10,000, because rounding "
        "differs between machines"
    ),
    "different": "these weights have another error here than was published",
}


@dataclass(frozen=True)
class PublishedFile:
    """What the card says about the published file, in addition to the entry of the manifest.

    Attributes:
        repo_id: The repository, as OWNER/NAME.
        parameters: The number of parameters of the network.
        timm_name: timm's own name of the network if timm's class can read the file, else None.
        sha256: The hash of the file.
        bytes: The size of the file.
        tensors_sha256: The hash of the tensors, independent of the container.
        conversion: What happened to the tensors of the original file, or None if nothing happened.
    """

    repo_id: str
    parameters: int
    timm_name: str | None
    sha256: str
    bytes: int
    tensors_sha256: str
    conversion: str | None


def render_card(entry: WeightsEntry, file: PublishedFile) -> str:
    """Write the text of the card.

    Args:
        entry: The weights, with their results; at least one is needed.
        file: The published file.

    Returns:
        The metadata that the Hub reads, in YAML between two lines of dashes, then the text in Markdown.
    """
    parts = [
        f"# {entry.id}",
        _introduction(entry, get_architecture(entry.architecture), file),
        f"## Measured errors\n\n{_measurements(entry)}",
        f"## Preprocessing\n\n{describe_preprocessing(entry.preprocessing)}",
        f"## How to use\n\n{_examples(entry, file)}",
        f"## Source and license\n\n{_provenance(entry, file)}",
    ]
    return f"---\n{make_metadata(entry, file).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def make_metadata(entry: WeightsEntry, file: PublishedFile) -> ModelCardData:
    """Make the metadata that the Hub reads: license, library, dataset, and each measured number as a model-index.

    Args:
        entry: The weights, with their results.
        file: The published file.

    Returns:
        The metadata.
    """
    architecture = get_architecture(entry.architecture)
    _, dataset_id = _dataset_names(entry)
    return ModelCardData(
        **hub_license(entry.license.weights),
        library_name="timm" if file.timm_name else "pyramidzoo",
        pipeline_tag=_TASK,
        tags=[_TASK, "timm", "pyramidzoo", architecture.family, architecture.name],
        datasets=[dataset_id] if dataset_id else None,
        metrics=["accuracy"],
        model_name=entry.id,
        eval_results=[number for result in entry.results for number in _eval_results(entry, result)],
    )


def hub_license(spdx: str | None) -> dict[str, Any]:
    """Return the card's fields for a license.

    Args:
        spdx: The SPDX name of the license.

    Returns:
        The Hub's own name of the license. For a license that the Hub does not list: "other", and its name.
    """
    name = str(spdx).lower()
    return {"license": name} if name in _LICENSES else {"license": "other", "license_name": str(spdx)}


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Describe how an image becomes an input of the network, for people who do it without pyramidzoo.

    Args:
        preprocessing: The preprocessing that the weights were trained with.

    Returns:
        Sentences and a table in Markdown.
    """
    channels, height, width = preprocessing.input_size
    kind = {1: "Gray", 3: "RGB"}.get(channels, f"{channels}-channel")
    steps = [f"{kind} images"]
    if preprocessing.resize is None and preprocessing.crop is None:
        steps = [f"{kind} images of {width} x {height} pixels, neither resized nor cropped"]
    if preprocessing.resize is not None:
        interpolation = preprocessing.interpolation or "bilinear"
        steps.append(f"the shorter side resized to {preprocessing.resize} pixels ({interpolation})")
    if preprocessing.crop is not None:
        steps.append(f"the central {preprocessing.crop} x {preprocessing.crop} pixels cropped")
    channel_names = {1: ["gray"], 3: ["red", "green", "blue"]}.get(channels, [str(k) for k in range(channels)])
    constants = render_table(
        ["channel", "mean", "standard deviation"],
        [
            [name, str(mean), str(std)]
            for name, mean, std in zip(channel_names, preprocessing.mean, preprocessing.std, strict=True)
        ],
    )
    return (
        f"{', '.join(steps)}. Divide the values by 255, subtract the mean, and divide by the standard deviation. The "
        f"weights were trained with these constants:\n\n{constants}"
    )


def render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table whose columns are also aligned in plain text.

    Args:
        columns: The heads of the columns.
        rows: The cells of each row.

    Returns:
        The table. A column whose cells all begin with a digit or a minus sign is aligned to the right.
    """
    lines = [list(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(columns))]
    is_number = [all(re.match(r"[\d-]", row[k]) for row in rows) for k in range(len(columns))]
    rule = [f"{'-' * (width - 1)}:" if right else "-" * width for width, right in zip(widths, is_number, strict=True)]
    return "\n".join(_table_line(line, widths, is_number) for line in [lines[0], rule, *lines[1:]])


def _table_line(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, is_number, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _dataset_names(entry: WeightsEntry) -> tuple[str, str | None]:
    """Return the name of the dataset for people, and its id on the Hub or None."""
    return _DATASETS.get(entry.dataset, (entry.dataset, None))


def _eval_results(entry: WeightsEntry, result: Result) -> list[EvalResult]:
    """Make the Hub's records of the top-1 and the top-5 accuracy, with the counts that they come from."""
    name, dataset_id = _dataset_names(entry)
    return [
        EvalResult(
            task_type=_TASK,
            task_name="Image Classification",
            dataset_type=dataset_id or entry.dataset,
            dataset_name=name,
            dataset_split=result.split,
            metric_type="accuracy",
            metric_name=f"{label} accuracy",
            metric_value=round(correct / result.images, 6),
            metric_args={"correct": correct, "images": result.images, "precision": result.precision},
        )
        for label, correct in (("top-1", result.top1_correct), ("top-5", result.top5_correct))
    ]


def _introduction(entry: WeightsEntry, architecture: Architecture, file: PublishedFile) -> str:
    dataset, _ = _dataset_names(entry)
    size = " x ".join(map(str, entry.preprocessing.input_size[1:]))
    first = entry.results[0]
    wrong = first.images - first.top1_correct
    paragraphs = [
        f"{architecture.description}, trained on {dataset}. The top-1 error is "
        f"**{error_percent(wrong, first.images):.2f} %**: {wrong:,} of {first.images:,} {first.split} images are "
        "classified wrongly.",
        f"The network has {file.parameters:,} parameters and {entry.num_classes:,} classes, and takes images of {size} "
        f"pixels. Source of the network: {_link_papers(architecture.source)}.",
    ]
    if entry.arguments:
        arguments = ", ".join(f"{name}={value!r}" for name, value in entry.arguments.items())
        paragraphs.append(f"It was built with {arguments}.")
    if training := describe_training(entry.training):
        paragraphs.append(f"Training: {training.rstrip('.')}.")
    return "\n\n".join(paragraphs)


def _measurements(entry: WeightsEntry) -> str:
    counts = render_table(
        ["split", "images", "wrong", "top-1 error", "95 % interval", "top-5 wrong", "top-5 error"],
        [_count_row(result) for result in entry.results],
    )
    parts = [counts, _interval_note(entry.results)]
    if entry.claims:
        rows = [_claim_row(claim, entry.results) for claim in entry.claims]
        parts.append(
            "Comparison with the errors that were published for exactly these weights:\n\n"
            + render_table(["published by", "top-1 error", "statistic", "measured", "verdict"], rows)
        )
        parts.append(_claims_note(entry.claims, {row[-1] for row in rows}))
    parts.append("\n".join(_circumstances(result) for result in entry.results))
    return "\n\n".join(parts)


def _count_row(result: Result) -> list[str]:
    wrong, wrong_top5 = result.images - result.top1_correct, result.images - result.top5_correct
    low, high = wilson_interval(wrong, result.images)
    return [
        result.split,
        f"{result.images:,}",
        f"{wrong:,}",
        f"{error_percent(wrong, result.images):.2f} %",
        f"{low:.2f} to {high:.2f} %",
        f"{wrong_top5:,}",
        f"{error_percent(wrong_top5, result.images):.2f} %",
    ]


def _interval_note(results: Sequence[Result]) -> str:
    statistics = [f"{value:.3f} % ({name})" for result in results for name, value in result.statistics.items()]
    others = f" The error by other statistics: {'; '.join(statistics)}." if statistics else ""
    return f"The interval (Wilson) shows which errors another test set of this size could give.{others}"


def _claim_row(claim: Claim, results: Sequence[Result]) -> list[str]:
    """Return a published error, our error by the same statistic, and the verdict.

    Only a strict measurement (fp32) of the same split and protocol is compared.
    """
    published = [claim.by, f"{claim.top1_error} %", claim.statistic]
    for result in results:
        wrong = result.images - result.top1_correct
        measured = {ERROR: error_percent(wrong, result.images), **result.statistics}.get(claim.statistic)
        is_comparable = (claim.split, claim.protocol, "fp32") == (result.split, result.protocol, result.precision)
        if is_comparable and measured is not None:
            return [*published, f"{measured:.3f} %", claim_verdict(claim.top1_error, measured, result.images)]
    return [*published, "-", f"not measured in this way ({claim.split}, {claim.protocol})"]


def _claims_note(claims: Sequence[Claim], verdicts: set[str]) -> str:
    """Say where the errors were published, and what the verdicts in the table mean."""
    sources = "; ".join(dict.fromkeys(claim.source for claim in claims))
    meanings = [f"{name}: {text}" for name, text in _VERDICTS.items() if name in verdicts]
    return "; ".join([f"Published in {sources}", *meanings]) + "."


def _circumstances(result: Result) -> str:
    torch = f", torch {result.versions['torch']}" if "torch" in result.versions else ""
    return (
        f"Measured on {result.date} with `pyramidzoo evaluate` ({result.split}: {result.protocol}) in "
        f"{result.precision} on {result.device}{torch}; sha256 of all predictions: `{result.prediction_sha256}`."
    )


def _examples(entry: WeightsEntry, file: PublishedFile) -> str:
    download = f'file = hf_hub_download("{file.repo_id}", "model.safetensors")'
    register = "" if file.timm_name else "\npyramidzoo.register_with_timm()"
    imports = "import timm" if file.timm_name else "import pyramidzoo\nimport timm"
    timm_note = (
        f"timm's own `{file.timm_name}` reads this file, so pyramidzoo is not needed"
        if file.timm_name
        else "timm does not have this network, so pyramidzoo registers it"
    )
    return f"""With pyramidzoo:

```python
import pyramidzoo
from huggingface_hub import hf_hub_download

{download}
model = pyramidzoo.create_model("{entry.architecture}", weights=file).eval()
transform = pyramidzoo.eval_transform(model.preprocessing)  # from a PIL image to an input
```

With torch.hub:

```python
import torch
from huggingface_hub import hf_hub_download

{download}
model = torch.hub.load("pyramidzoo/pyramidzoo:v{__version__}", "{entry.architecture}", weights=file).eval()
```

With timm ({timm_note}):

```python
{imports}
{register}
model = timm.create_model("hf-hub:{file.repo_id}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))
```

`pyramidzoo evaluate model.safetensors` measures the errors above again."""


def _provenance(entry: WeightsEntry, file: PublishedFile) -> str:
    """List who made the weights, under which license, and which files they come from."""
    origin = entry.origin
    tensors = f"sha256 `{file.tensors_sha256}` over names, dtypes, shapes and values, independent of the container"
    lines = [
        ("Weights by", entry.citation and _link_papers(entry.citation)),
        ("License", _license_text(entry.license)),
        ("Original file", origin and (f"<{origin.url}>" + (f": {origin.manual}" if origin.manual else ""))),
        ("Hash of the original file", origin and origin.hash and _mark_hashes(str(origin.hash))),
        ("Converted by pyramidzoo", file.conversion),
        ("This file", f"`model.safetensors`, {file.bytes:,} bytes, sha256 `{file.sha256}`"),
        ("Tensors in this file", tensors),
    ]
    return "\n".join(f"- **{label}:** {value}" for label, value in lines if value)


def _license_text(license: License) -> str:
    if license.code in (None, license.weights):
        return str(license.weights)
    return f"{license.weights}; license of the code they were trained with: {license.code}"


def _mark_hashes(text: str) -> str:
    """Put each hash in a text between backticks."""
    return re.sub(r"\b([0-9a-f]{8,})\b", r"`\1`", text)


def _link_papers(text: str) -> str:
    """Turn each arXiv number in a text into a link."""
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
