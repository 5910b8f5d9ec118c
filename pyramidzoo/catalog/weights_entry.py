"""The records that make up one entry of the manifest, and how they are made from its JSON.

A value that is not known is None; nothing is guessed. Only the standard library is needed here.
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

# Hash algorithms, and how many hex digits each has. `git_blob_sha1` is the hash by which git names a file.
# `sha256_prefix` is the part of a sha256 that torch.hub writes into file names.
_HEX_DIGITS: Mapping[str, int | range] = {
    "md5": 32,
    "sha1": 40,
    "sha256": 64,
    "git_blob_sha1": 40,
    "sha256_prefix": range(8, 64),
}
_PERMISSIVE_LICENSES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "Unlicense"}
_REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_WEIGHTS_ID = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


@dataclass(frozen=True)
class Bundled:
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
class Hub:
    """A safetensors file on the Hugging Face Hub.

    Attributes:
        repo_id: The repository, as OWNER/NAME.
        revision: The full commit; None means the branch main.
        filename: Path of the file within the repository.
        sha256: Hash of the file. If it is None, the first download is trusted.
        bytes: Size of the file, if it is known.
        layout: Name of the layout that the tensor names follow (see `catalog.layouts`). None means that the tensors
            have the zoo's own names.
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
        """The page of the file, for people."""
        return f"https://huggingface.co/{self.repo_id}/blob/{self.revision or 'main'}/{self.filename}"


@dataclass(frozen=True)
class FileHash:
    """A hash that was published for a file.

    Attributes:
        algorithm: "md5", "sha1", "sha256", "git_blob_sha1" or "sha256_prefix".
        of: "file" if it is the hash of the file itself, "member" if it is the hash of the only file in a zip.
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
        whose = " of the file in it" if self.of == "member" else ""
        return f"{self.algorithm.replace('_prefix', ' beginning with')} {self.value}{whose}"


@dataclass(frozen=True)
class Origin:
    """The file as its authors published it.

    Attributes:
        url: Address of the file, or of the page or folder where a person finds it (see `manual`).
        format: What the file is, such as "torch" or "zip of torch".
        bytes: Size of the file, if it is known.
        hash: A hash of the file; None if nobody has published one.
        layout: Name of the layout that the tensor names follow (see `catalog.layouts`).
        manual: What a person has to look for at `url`, if no program can download from there; otherwise None.
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
        """Name of the file: the last part of the address."""
        name = self.url.partition("?")[0].rsplit("/", 1)[-1]
        return name if name not in ("", ".", "..") else "checkpoint"


@dataclass(frozen=True)
class Claim:
    """An error that was published for exactly these weights.

    Attributes:
        by: Who published it.
        split: The split of the dataset, such as "test".
        protocol: How the images were prepared and how often each was evaluated.
        statistic: Name of the statistic, "error" if it is the plain error.
        top1_error: In percent, with the digits that were printed; they tell how it was rounded.
        top5_error: Likewise; None if it was not published.
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
    """What was measured with these weights.

    Attributes:
        split: The split of the dataset, such as "test".
        protocol: How the images were prepared and how often each was evaluated.
        images: Number of images.
        top1_correct: Number of images whose best prediction is right.
        top5_correct: Number of images whose label is among the best five predictions.
        statistics: Other statistics by name, in percent.
        prediction_sha256: Hash of all predictions in the order of their indices.
        precision: The arithmetic, such as "fp32".
        device: The device that computed the predictions.
        versions: Versions of the software, by name.
        date: When it was measured (ISO 8601).
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
    """The licenses of the code and of the weights.

    Each is an SPDX name, or "none stated" if the authors' repository has no license, or None if it is not known.

    Attributes:
        code: License of the authors' code.
        weights: License of the weights.
    """

    code: str | None
    weights: str | None

    @property
    def redistributable(self) -> bool:
        """Whether anybody may publish the weights again: only if their license is known and permits it."""
        return self.weights in _PERMISSIVE_LICENSES


@dataclass(frozen=True)
class WeightsEntry:
    """Everything that is known about one set of weights.

    Attributes:
        id: `architecture.dataset` or `architecture.dataset_origin`. It never changes.
        architecture: Name of the architecture.
        arguments: Arguments beside those that the architecture fixes.
        dataset: The dataset that the weights were trained for.
        default: Whether these are the weights that the dataset's name alone means.
        num_classes: Number of classes.
        preprocessing: The preprocessing that the weights were trained with.
        bundled: The file in the package, if there is one.
        hub: The file on the Hub, if there is one.
        origin: The file that the authors published, if there is one.
        tensors_sha256: Hash of the tensors under the zoo's names, if somebody has computed it.
        claims: What was published about these weights.
        results: What was measured with these weights.
        license: The licenses of the code and of the weights.
        training: What is known about the training beside the dataset: the record of the training if a recipe of this
            package was used, else words.
        citation: Whom to cite.
    """

    id: str
    architecture: str
    arguments: Mapping[str, Any]
    dataset: str
    default: bool
    num_classes: int
    preprocessing: Preprocessing
    bundled: Bundled | None
    hub: Hub | None
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
            wanted = describe_value(id_without_origin)[1:-1]
            raise InvalidRecordError(f"the id must be {wanted} or {wanted}_ORIGIN")
        if self.architecture not in architectures():
            raise InvalidRecordError(f"no architecture is called {describe_value(self.architecture)}")
        if not isinstance(self.preprocessing, Preprocessing) or not isinstance(self.license, License):
            raise InvalidRecordError("preprocessing and license must be known")
        if not (self.bundled or self.hub or self.origin):
            raise InvalidRecordError("nothing says where the bytes are: bundled, hub or origin is needed")
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


_NESTED_RECORDS: Mapping[str, type] = {
    "preprocessing": Preprocessing,
    "bundled": Bundled,
    "hub": Hub,
    "origin": Origin,
    "hash": FileHash,
    "license": License,
}
_LISTS_OF_RECORDS: Mapping[str, type] = {"claims": Claim, "results": Result}


def make_entry(weights_id: str, content: Any) -> WeightsEntry:
    """Make the record of an entry from the manifest's JSON.

    Args:
        weights_id: The entry's id, which is its key in the manifest.
        content: The entry as the JSON has it.

    Returns:
        The entry.

    Raises:
        InvalidRecord: If a field is missing, unknown or of the wrong type; the message names the field.
        TypeError: If `content` is not an object.
    """
    return make_record(WeightsEntry, _convert_fields({"id": weights_id, **content}))


def _convert_fields(content: Any) -> Any:
    """Turn the values of a JSON object into what the fields of a record hold."""
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
    """Read a published error in percent. It is a string in the JSON, so that its printed digits are kept."""
    if not isinstance(value, str):
        raise InvalidRecordError("a published error is a string: its digits carry the rounding")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidRecordError(f"{describe_value(value)} is no number") from None
    if not number.is_finite() or not 0 <= number <= 100:
        raise InvalidRecordError(f"{describe_value(value)} is no error in percent")
    return number
