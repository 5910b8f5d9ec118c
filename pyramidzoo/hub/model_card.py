"""Make the model card of published weights: the file README.md of their repository on the Hub.

The card describes the weights: their network, their measured errors, the preprocessing of images, examples of code, and
who made them under which license.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pyramidzoo import __version__
from pyramidzoo.catalog.architectures import Architecture, get_architecture
from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing
from pyramidzoo.catalog.training_record import describe_training
from pyramidzoo.catalog.weights_entry import Claim, License, Result, WeightsEntry
from pyramidzoo.evaluation.metrics import ERROR, error_percent, wilson_interval
from pyramidzoo.evaluation.verdicts import claim_verdict

_TASK = "image-classification"
# The names of licenses that the Hub knows, from its documentation (repositories-licenses in huggingface/hub-docs).
_HUB_LICENSES = {
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "isc", "mit", "unlicense"),
    *("cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0"),
}
# The name of a dataset for people, and its id on the Hub; None if it is not on the Hub.
_DATASET_NAMES: Mapping[str, tuple[str, str | None]] = {
    "cifar10": ("CIFAR-10", "uoft-cs/cifar10"),
    "cifar100": ("CIFAR-100", "uoft-cs/cifar100"),
    "svhn": ("SVHN", "ufldl-stanford/svhn"),
    "mnist": ("MNIST", "ylecun/mnist"),
    "fashion_mnist": ("Fashion-MNIST", "zalando-datasets/fashion_mnist"),
    "imagenet1k": ("ImageNet-1k", "ILSVRC/imagenet-1k"),
    "digits": ("Optical Recognition of Handwritten Digits (UCI)", None),
}
# The verdicts on published errors, and what they mean.
_VERDICT_MEANINGS = {
    "matched": (
        "the errors are equal at the printed rounding, or differ by at most 2 images in 10,000, because rounding "
        "differs between machines"
    ),
    "different": "these weights have another error here than was published",
}


@dataclass(frozen=True)
class PublishedFile:
    """The facts about the published file on the card that are not in the manifest's entry.

    Attributes:
        repo_id: The repository, as OWNER/NAME.
        parameters: The number of parameters of the network.
        timm_name: The name under which timm itself has the network, if timm's class can read the file; else None.
        sha256: The hash of the file.
        bytes: The size of the file.
        tensors_sha256: The hash of the tensors. It does not depend on the file format.
        conversion: How the tensors of the original file were changed, in words; None if they were not changed.
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
        entry: The manifest's entry of the weights. It must have at least one result.
        file: The published file.

    Returns:
        The metadata that the Hub reads, in YAML between two lines of dashes, then the text in Markdown.
    """
    parts = [
        f"# {entry.id}",
        _write_introduction(entry, get_architecture(entry.architecture), file),
        f"## Measured errors\n\n{_write_measurements(entry)}",
        f"## Preprocessing\n\n{describe_preprocessing(entry.preprocessing)}",
        f"## How to use\n\n{_write_examples(entry, file)}",
        f"## Source and license\n\n{_list_sources(entry, file)}",
    ]
    return f"---\n{make_metadata(entry, file).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def make_metadata(entry: WeightsEntry, file: PublishedFile) -> ModelCardData:
    """Make the metadata that the Hub reads: license, library, dataset, and each measured number as a model-index.

    Args:
        entry: The manifest's entry of the weights, with their results.
        file: The published file.

    Returns:
        The metadata.
    """
    architecture = get_architecture(entry.architecture)
    _, dataset_id = _get_dataset_names(entry)
    return ModelCardData(
        **make_license_fields(entry.license.weights),
        library_name="timm" if file.timm_name else "pyramidzoo",
        pipeline_tag=_TASK,
        tags=[_TASK, "timm", "pyramidzoo", architecture.family, architecture.name],
        datasets=[dataset_id] if dataset_id else None,
        metrics=["accuracy"],
        model_name=entry.id,
        eval_results=[number for result in entry.results for number in _make_eval_results(entry, result)],
    )


def make_license_fields(spdx: str | None) -> dict[str, Any]:
    """Make the fields of the metadata that name a license.

    Args:
        spdx: The SPDX name of the license.

    Returns:
        The field `license` with the Hub's name of the license, which is the SPDX name in lower case. For a license that
        the Hub does not know, `license` is "other", and `license_name` is the SPDX name.
    """
    hub_name = str(spdx).lower()
    return {"license": hub_name} if hub_name in _HUB_LICENSES else {"license": "other", "license_name": str(spdx)}


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Describe how an image becomes an input of the network, for people who do not use pyramidzoo.

    Args:
        preprocessing: The preprocessing that the weights were trained with.

    Returns:
        Sentences and a table in Markdown.
    """
    channels, height, width = preprocessing.input_size
    image_kind = {1: "Gray", 3: "RGB"}.get(channels, f"{channels}-channel")
    steps = [f"{image_kind} images"]
    if preprocessing.resize is None and preprocessing.crop is None:
        steps = [f"{image_kind} images of {width} x {height} pixels, neither resized nor cropped"]
    if preprocessing.resize is not None:
        interpolation = preprocessing.interpolation or "bilinear"
        steps.append(f"the shorter side resized to {preprocessing.resize} pixels ({interpolation})")
    if preprocessing.crop is not None:
        steps.append(f"the central {preprocessing.crop} x {preprocessing.crop} pixels cropped")
    if isinstance(preprocessing, WhitenedPreprocessing):
        return (
            f"{', '.join(steps)}. Global contrast normalization and ZCA whitening prepare the images, as in pylearn2 "
            "(scale 55, filter bias 0.1). The whitening is fitted on the training images."
        )
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


def render_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table whose columns are also aligned in plain text.

    Args:
        titles: The titles of the columns.
        rows: The cells of each row.

    Returns:
        The table. A column whose cells all begin with a digit or a minus sign is aligned to the right.
    """
    # "|" ends a cell in Markdown; "\\|" is the character itself.
    lines = [list(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    # Markdown wants at least three dashes below a title.
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(titles))]
    has_numbers = [all(re.match(r"[\d-]", row[k]) for row in rows) for k in range(len(titles))]
    # In the line below the titles, a colon at the end of the dashes aligns the column to the right.
    dashes = [
        f"{'-' * (width - 1)}:" if to_right else "-" * width
        for width, to_right in zip(widths, has_numbers, strict=True)
    ]
    return "\n".join(_render_table_line(line, widths, has_numbers) for line in [lines[0], dashes, *lines[1:]])


def _render_table_line(cells: Sequence[str], widths: Sequence[int], align_right: Sequence[bool]) -> str:
    """Render one line of a table. Spaces make each cell as wide as its column."""
    padded_cells = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, align_right, strict=True)
    ]
    return f"| {' | '.join(padded_cells)} |"


def _get_dataset_names(entry: WeightsEntry) -> tuple[str, str | None]:
    """Return the name of the dataset for people, and its id on the Hub; None if it is not on the Hub."""
    return _DATASET_NAMES.get(entry.dataset, (entry.dataset, None))


def _make_eval_results(entry: WeightsEntry, result: Result) -> list[EvalResult]:
    """Make the metadata of the top-1 and the top-5 accuracy, with the numbers of images that they come from."""
    name_for_people, dataset_id = _get_dataset_names(entry)
    return [
        EvalResult(
            task_type=_TASK,
            task_name="Image Classification",
            dataset_type=dataset_id or entry.dataset,
            dataset_name=name_for_people,
            dataset_split=result.split,
            metric_type="accuracy",
            metric_name=f"{label} accuracy",
            metric_value=round(correct / result.images, 6),
            metric_args={"correct": correct, "images": result.images, "precision": result.precision},
        )
        for label, correct in (("top-1", result.top1_correct), ("top-5", result.top5_correct))
    ]


def _write_introduction(entry: WeightsEntry, architecture: Architecture, file: PublishedFile) -> str:
    """Write what the network is, its error in the first result, and how it was built and trained."""
    dataset_name, _ = _get_dataset_names(entry)
    height_and_width = " x ".join(map(str, entry.preprocessing.input_size[1:]))
    first_result = entry.results[0]
    wrong = first_result.images - first_result.top1_correct
    paragraphs = [
        f"{architecture.description}, trained on {dataset_name}. The top-1 error is "
        f"**{error_percent(wrong, first_result.images):.2f} %**: {wrong:,} of {first_result.images:,} "
        f"{first_result.split} images are classified wrongly.",
        f"The network has {file.parameters:,} parameters and {entry.num_classes:,} classes, and takes images of "
        f"{height_and_width} pixels. Source of the network: {_link_papers(architecture.source)}.",
    ]
    if entry.arguments:
        arguments = ", ".join(f"{name}={value!r}" for name, value in entry.arguments.items())
        paragraphs.append(f"It was built with {arguments}.")
    if training := describe_training(entry.training):
        paragraphs.append(f"Training: {training.rstrip('.')}.")
    return "\n\n".join(paragraphs)


def _write_measurements(entry: WeightsEntry) -> str:
    """Write the table of measured errors, its comparison with published errors, and how the errors were measured."""
    error_table = render_table(
        ["split", "images", "wrong", "top-1 error", "95 % interval", "top-5 wrong", "top-5 error"],
        [_make_error_row(result) for result in entry.results],
    )
    parts = [error_table, _write_interval_note(entry.results)]
    if entry.claims:
        rows = [_make_claim_row(claim, entry.results) for claim in entry.claims]
        parts.append(
            "Comparison with the errors that were published for exactly these weights:\n\n"
            + render_table(["published by", "top-1 error", "statistic", "measured", "verdict"], rows)
        )
        parts.append(_write_claims_note(entry.claims, {row[-1] for row in rows}))
    parts.append("\n".join(_describe_measurement(result) for result in entry.results))
    return "\n\n".join(parts)


def _make_error_row(result: Result) -> list[str]:
    """Make the row of the table of errors for one result."""
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


def _write_interval_note(results: Sequence[Result]) -> str:
    """Write what the intervals mean, and the errors that were computed by other formulas."""
    statistics = [f"{value:.3f} % ({name})" for result in results for name, value in result.statistics.items()]
    other_errors = f" The error by other statistics: {'; '.join(statistics)}." if statistics else ""
    return f"The interval (Wilson) shows which errors another test set of this size could give.{other_errors}"


def _make_claim_row(claim: Claim, results: Sequence[Result]) -> list[str]:
    """Make a row with a published error, the error that we measured by the same statistic, and the verdict.

    A published error is compared only with a result in fp32 of the same split and protocol.
    """
    published_cells = [claim.by, f"{claim.top1_error} %", claim.statistic]
    for result in results:
        wrong = result.images - result.top1_correct
        measured_errors = {ERROR: error_percent(wrong, result.images), **result.statistics}
        measured = measured_errors.get(claim.statistic)
        is_comparable = (claim.split, claim.protocol, "fp32") == (result.split, result.protocol, result.precision)
        if is_comparable and measured is not None:
            return [*published_cells, f"{measured:.3f} %", claim_verdict(claim.top1_error, measured, result.images)]
    return [*published_cells, "-", f"not measured in this way ({claim.split}, {claim.protocol})"]


def _write_claims_note(claims: Sequence[Claim], verdicts: set[str]) -> str:
    """Write where the errors were published, and what the verdicts in the table mean."""
    sources = "; ".join(dict.fromkeys(claim.source for claim in claims))  # each source once, in its order
    meanings = [f"{verdict}: {meaning}" for verdict, meaning in _VERDICT_MEANINGS.items() if verdict in verdicts]
    return "; ".join([f"Published in {sources}", *meanings]) + "."


def _describe_measurement(result: Result) -> str:
    """Write when, how and on which device a result was measured."""
    torch_text = f", torch {result.versions['torch']}" if "torch" in result.versions else ""
    return (
        f"Measured on {result.date} with `pyramidzoo evaluate` ({result.split}: {result.protocol}) in "
        f"{result.precision} on {result.device}{torch_text}; sha256 of all predictions: `{result.prediction_sha256}`."
    )


def _write_examples(entry: WeightsEntry, file: PublishedFile) -> str:
    """Write code that loads the weights with pyramidzoo, with torch.hub and with timm."""
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


def _list_sources(entry: WeightsEntry, file: PublishedFile) -> str:
    """List who made the weights, their license, the original file, and the hashes of the published file."""
    origin = entry.origin
    tensors_hash = f"sha256 `{file.tensors_sha256}` over names, dtypes, shapes and values, independent of the container"
    lines = [
        ("Weights by", entry.citation and _link_papers(entry.citation)),
        ("License", _describe_license(entry.license)),
        ("Original file", origin and (f"<{origin.url}>" + (f": {origin.manual}" if origin.manual else ""))),
        ("Hash of the original file", origin and origin.hash and _mark_hashes(str(origin.hash))),
        ("Converted by pyramidzoo", file.conversion),
        ("This file", f"`model.safetensors`, {file.bytes:,} bytes, sha256 `{file.sha256}`"),
        ("Tensors in this file", tensors_hash),
    ]
    return "\n".join(f"- **{label}:** {value}" for label, value in lines if value)


def _describe_license(license: License) -> str:
    """Name the license of the weights, and that of the code if it is another one."""
    if license.code in (None, license.weights):
        return str(license.weights)
    return f"{license.weights}; license of the code they were trained with: {license.code}"


def _mark_hashes(text: str) -> str:
    """Put each hash in a text between backticks. A hash is a word of at least eight hex digits."""
    return re.sub(r"\b([0-9a-f]{8,})\b", r"`\1`", text)


def _link_papers(text: str) -> str:
    """Turn each arXiv number in a text into a link."""
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
