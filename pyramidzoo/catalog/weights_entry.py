"""The records that make up one entry of the manifest, and the functions that make them from its JSON.

A value that nobody knows is None; no value is guessed. This module imports only the standard library and modules that
need nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.training_record import Training, make_training
from pyramidzoo.json_records import InvalidRecordError, describe_value, make_record, require_hex

# The hash algorithms, and the number of hex digits of their hashes. `git_blob_sha1` is the hash by which git names the
# content of a file. `sha256_prefix` is the first part of a sha256, as in torch.hub's file name resnet18-f37072fd.pth.
# 8 is the number of digits there; 64 digits would be a whole sha256.
_HEX_DIGITS: Mapping[str, int | range] = {
    "md5": 32,
    "sha1": 40,
    "sha256": 64,
    "git_blob_sha1": 40,
    "sha256_prefix": range(8, 64),
}
_PERMISSIVE_LICENSES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "Unlicense"}
_REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)  # NAME or OWNER/NAME
_WEIGHTS_ID = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")  # ARCHITECTURE.TAG


@dataclass(frozen=True)
class BundledFile:
    """A safetensors file inside the package.

    Attributes:
        path: Path of the file within the package.
        sha256: Hash of the file.
        bytes: Size of the file.
    """

    path: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        require_hex(self.sha256, 64)


@dataclass(frozen=True)
class HubFile:
    """A safetensors file on the Hugging Face Hub.

    Attributes:
        repo_id: The repository, as OWNER/NAME.
        revision: The hash of the commit, with all 40 digits; None means the newest commit of the branch main.
        filename: Path of the file within the repository.
        sha256: Hash of the file. If it is None, the first download is accepted, and later ones must equal it.
        bytes: Size of the file; None if it is not known.
        layout: Name of the layout, which says how the tensors are named (see `catalog.layouts`). None means that the
            tensors have the names that pyramidzoo's networks give them.
    """

    repo_id: str
    revision: str | None
    filename: str
    sha256: str | None
    bytes: int | None
    layout: str | None = None

    def __post_init__(self) -> None:
        if not _REPO_ID.fullmatch(self.repo_id) or ".." in self.repo_id or "--" in self.repo_id:
            raise InvalidRecordError(f"repo_id: {describe_value(self.repo_id)} cannot be a repository on the Hub")
        if not self.filename or "\\" in self.filename or {"", ".", ".."} & set(self.filename.split("/")):
            raise InvalidRecordError(f"filename: {describe_value(self.filename)} is no path in a repository")
        if self.revision is not None:
            require_hex(self.revision, 40)
        if self.sha256 is not None:
            require_hex(self.sha256, 64)

    @property
    def url(self) -> str:
        """The address of the web page on which people find the file."""
        return f"https://huggingface.co/{self.repo_id}/blob/{self.revision or 'main'}/{self.filename}"


@dataclass(frozen=True)
class FileHash:
    """A hash that was published for a file.

    Attributes:
        algorithm: "md5", "sha1", "sha256", "git_blob_sha1" or "sha256_prefix" (the first digits of a sha256).
        of: "file" if it is the hash of the file itself, "member" if it is the hash of the only file inside a zip file.
        value: Lower-case hex digits.
    """

    algorithm: str
    of: str
    value: str

    def __post_init__(self) -> None:
        if self.algorithm not in _HEX_DIGITS:
            raise InvalidRecordError(f"algorithm {describe_value(self.algorithm)} is none of {sorted(_HEX_DIGITS)}")
        if self.of not in ("file", "member"):
            raise InvalidRecordError(
                f"hash of {describe_value(self.of)}; it can be of the 'file' itself or of the 'member' of a zip"
            )
        require_hex(self.value, _HEX_DIGITS[self.algorithm])

    def __str__(self) -> str:
        hashed_file = " of the file in it" if self.of == "member" else ""
        return f"{self.algorithm.replace('_prefix', ' beginning with')} {self.value}{hashed_file}"


@dataclass(frozen=True)
class Origin:
    """The file as its authors published it.

    Attributes:
        url: Address of the file. If `manual` is not None, address of the page or folder where a person finds the file.
        format: The file format, such as "torch" (written by `torch.save`) or "zip of torch".
        bytes: Size of the file; None if it is not known.
        hash: A hash of the file; None if nobody has published one.
        layout: Name of the layout, which says how the tensors are named (see `catalog.layouts`).
        manual: The name that a person looks for at `url`, if no program can download the file; otherwise None.
    """

    url: str
    format: str
    bytes: int | None
    hash: FileHash | None
    layout: str
    manual: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise InvalidRecordError(f"url: {describe_value(self.url)} is no address on the web")

    @property
    def filename(self) -> str:
        """Name of the file: the last part of the address, or "checkpoint" if that part cannot name a file."""
        last_part = self.url.partition("?")[0].rsplit("/", 1)[-1]
        return last_part if last_part not in ("", ".", "..") else "checkpoint"


@dataclass(frozen=True)
class Claim:
    """An error that was published for exactly these weights.

    Attributes:
        by: Who published it.
        split: The split of the dataset, such as "test".
        protocol: How the images were prepared and how often each image was evaluated.
        statistic: How the number was computed: "error" is the share of wrong images. Any other name means another
            formula, such as the mean of the errors of batches.
        top1_error: Top-1 error in percent, with the digits that were printed; they show how it was rounded.
        top5_error: Top-5 error in percent, with the printed digits; None if it was not published.
        source: Where it was published.
    """

    by: str
    split: str
    protocol: str
    statistic: str
    top1_error: Decimal
    top5_error: Decimal | None
    source: str


@dataclass(frozen=True)
class Result:
    """The result of an evaluation of one set of weights.

    Attributes:
        split: The split of the dataset, such as "test".
        protocol: How the images were prepared and how often each image was evaluated.
        images: Number of images.
        top1_correct: Number of images whose best prediction is right.
        top5_correct: Number of images whose label is among the best five predictions.
        statistics: Errors that were computed by other formulas (see `Claim.statistic`), in percent, by name.
        prediction_sha256: Hash of the predictions for all images, in the order of the images in the dataset.
        precision: The arithmetic, such as "fp32".
        device: The device that computed the predictions.
        versions: The version of each program or library, by its name.
        date: The date of the evaluation (ISO 8601).
    """

    split: str
    protocol: str
    images: int
    top1_correct: int
    top5_correct: int
    statistics: Mapping[str, float]
    prediction_sha256: str
    precision: str
    device: str
    versions: Mapping[str, str]
    date: str

    def __post_init__(self) -> None:
        require_hex(self.prediction_sha256, 64)
        if not 0 <= self.top1_correct <= self.top5_correct <= self.images > 0:
            raise InvalidRecordError("counts must satisfy 0 <= top1_correct <= top5_correct <= images, and images > 0")


@dataclass(frozen=True)
class License:
    """The licenses of the authors' code and of the weights.

    Each is an SPDX name such as "MIT", or "none stated" if the authors' repository has no license, or None if it is
    not known.

    Attributes:
        code: License of the authors' code.
        weights: License of the weights.
    """

    code: str | None
    weights: str | None

    @property
    def redistributable(self) -> bool:
        """Whether anybody may publish the weights again: their license is known, and it is one that permits this."""
        return self.weights in _PERMISSIVE_LICENSES


@dataclass(frozen=True)
class WeightsEntry:
    """Everything that is known about one set of weights.

    Attributes:
        id: `architecture.dataset` or `architecture.dataset_origin`. It never changes.
        architecture: Name of the architecture.
        arguments: Arguments of the network's class, in addition to those that the architecture's name fixes.
        dataset: The dataset that the weights were trained for.
        default: Whether `architecture.dataset` means this entry, if there are several entries for that dataset.
        num_classes: Number of classes.
        preprocessing: The preprocessing that the weights were trained with.
        bundled: The file in the package; None if there is none.
        hub: The file on the Hugging Face Hub; None if there is none.
        origin: The file that the authors published; None if there is none.
        tensors_sha256: Hash of the tensors, with the names that pyramidzoo's network gives them; None if nobody has
            computed it.
        claims: The errors that were published for these weights.
        results: The results of evaluations with pyramidzoo.
        license: The licenses of the authors' code and of the weights.
        training: How the weights were trained: the record of the training if it used a recipe of this package, else
            words; None if it is not known.
        citation: The authors to cite, and where they published the weights; None if it is not known.
    """

    id: str
    architecture: str
    arguments: Mapping[str, Any]
    dataset: str
    default: bool
    num_classes: int
    preprocessing: Preprocessing
    bundled: BundledFile | None
    hub: HubFile | None
    origin: Origin | None
    tensors_sha256: str | None
    claims: tuple[Claim, ...]
    results: tuple[Result, ...]
    license: License
    training: str | Training | None
    citation: str | None

    def __post_init__(self) -> None:
        id_without_origin = f"{self.architecture}.{self.dataset}"
        if not _WEIGHTS_ID.fullmatch(self.id) or not (
            self.id == id_without_origin or self.id.startswith(f"{id_without_origin}_")
        ):
            printable_id = describe_value(id_without_origin)[1:-1]  # without the quotation marks
            raise InvalidRecordError(f"the id must be {printable_id} or {printable_id}_ORIGIN")
        if self.architecture not in architectures():
            raise InvalidRecordError(f"no architecture is called {describe_value(self.architecture)}")
        if not isinstance(self.preprocessing, Preprocessing) or not isinstance(self.license, License):
            raise InvalidRecordError("preprocessing and license must be known")
        if not (self.bundled or self.hub or self.origin):
            raise InvalidRecordError("nothing says where the file is: bundled, hub or origin is needed")
        if self.tensors_sha256 is not None:
            require_hex(self.tensors_sha256, 64)
        has_words = isinstance(self.training, str) and self.training.isprintable()
        if not (self.training is None or has_words or isinstance(self.training, Training)):
            raise InvalidRecordError(
                f"training: {describe_value(self.training)} is neither words nor the record of a training"
            )

    @property
    def tag(self) -> str:
        """The id without the architecture: the dataset, or the dataset and the origin."""
        return self.id.split(".", 1)[1]


# The fields whose value is a JSON object, and the class of the record that is made from it.
_NESTED_RECORDS: Mapping[str, type] = {
    "preprocessing": Preprocessing,
    "bundled": BundledFile,
    "hub": HubFile,
    "origin": Origin,
    "hash": FileHash,
    "license": License,
}
# The fields whose value is a list of JSON objects, and the class of the record that is made from each of them.
_LISTS_OF_RECORDS: Mapping[str, type] = {"claims": Claim, "results": Result}


def make_entry(weights_id: str, content: Any) -> WeightsEntry:
    """Make the record of an entry from the manifest's JSON.

    Args:
        weights_id: The entry's id. In the JSON it is the key of the entry, not one of its fields.
        content: The JSON of the entry. It may be damaged.

    Returns:
        The entry.

    Raises:
        InvalidRecordError: If a field is missing, unknown or of the wrong type; the message names the field.
        TypeError: If `content` is not an object.
    """
    return make_record(WeightsEntry, _convert_fields({"id": weights_id, **content}))


def _convert_fields(content: Any) -> Any:
    """Convert the values of a JSON object to the types that the fields of a record have (see `_convert_field`).

    If `content` is not an object, it is returned as it is; `make_record` then says what is wrong.
    """
    if not isinstance(content, dict):
        return content
    values = {}
    for name, value in content.items():
        try:
            values[name] = _convert_field(name, value)
        except InvalidRecordError as error:
            raise InvalidRecordError(f"{name}: {error}") from None
    return values


def _convert_field(name: str, value: Any) -> Any:
    """Convert the value of the field `name`.

    Objects become records, lists become tuples, printed errors become decimals. All other objects become read-only.
    """
    if name in _NESTED_RECORDS and value is not None:
        return make_record(_NESTED_RECORDS[name], _convert_fields(value))
    if name in _LISTS_OF_RECORDS:
        if not isinstance(value, list):
            raise InvalidRecordError(f"{describe_value(value)} is not a list")
        return tuple(make_record(_LISTS_OF_RECORDS[name], _convert_fields(item)) for item in value)
    if name == "training" and isinstance(value, dict):
        return make_training(value)
    if name in ("top1_error", "top5_error") and value is not None:
        return _parse_published_error(value)
    if isinstance(value, list):
        return tuple(value)
    return MappingProxyType(value) if isinstance(value, dict) else value


def _parse_published_error(value: Any) -> Decimal:
    """Read a published error in percent.

    It is a string in the JSON. A JSON number would lose zeros at the end: 5.0 and 5.00 are the same number, but they
    were rounded differently.
    """
    if not isinstance(value, str):
        raise InvalidRecordError("a published error must be a string, because its digits show how it was rounded")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidRecordError(f"{describe_value(value)} is no number") from None
    if not number.is_finite() or not 0 <= number <= 100:
        raise InvalidRecordError(f"{describe_value(value)} is no error in percent")
    return number
