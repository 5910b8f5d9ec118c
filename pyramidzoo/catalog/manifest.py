"""`weights_manifest.json`, read into frozen records and checked: which weights exist, what they are, what they score.

A value that nobody has seen is null, never guessed. `PYRAMIDZOO_MANIFEST` names another file, a lab's own zoo or an
erratum, whose use is never silent. Only the standard library is needed here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyramidzoo import json_records as schema
from pyramidzoo.catalog.architectures import architectures, near_matches
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash, packaged, user_path
from pyramidzoo.json_records import InvalidRecord

FILE_NAME = "weights_manifest.json"
FORMAT = 1
VARIABLE = "PYRAMIDZOO_MANIFEST"

# Whose names the tensors of a foreign file have: one module of `pyramidzoo.convert.layouts` each. Those need torch.
LAYOUTS = (
    "akamaster",
    "bearpaw",
    "chenyaofo",
    "dice",
    "dyhan",
    "fattorib",
    "ferles",
    "functional_zoo",
    "pytorchcv",
    "timm",
    "torch7",
    "torchvision",
    "zoo",
)

# git_blob_sha1 is the name git gives a file; sha256_prefix is what torch.hub's file names carry
_HEX_DIGITS: Mapping[str, int | range] = {
    "md5": 32,
    "sha1": 40,
    "sha256": 64,
    "git_blob_sha1": 40,
    "sha256_prefix": range(8, 64),
}
_PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "Unlicense"}
_announced: set[Path] = set()
_REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_ID = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input these weights were trained with.

    Sizes are in pixels. `mean` and `std` are those of values from 0 to 1: each mean lies within [0, 1], each standard
    deviation within (0, 1]. Raises a UsageError for others; where they come from a file, its reader raises an
    IntegrityError.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or not all(isinstance(n, int) and n > 0 for n in self.input_size):
            raise InvalidRecord("input_size must be three positive integers: channels, height, width")
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise InvalidRecord("input_size, mean and std do not have the same number of channels")
        require_plausible(self.mean, self.std)

    def sha256(self) -> str:
        """Hex digest of the canonical JSON of all fields: equal digests mean equal preprocessing."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def require_plausible(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise Invalid unless each mean lies within [0, 1] and each standard deviation within (0, 1].

    No values from 0 to 1 have others (NaN and infinity included). Who gives others has most likely measured values
    from 0 to 255: the message then shows the numbers divided by 255. Nothing is converted here.
    """
    bad = []
    if not all(0 <= value <= 1 for value in mean):
        bad.append(f"the mean {_numbers(mean)} is not within 0 to 1")
    if not all(0 < value <= 1 for value in std):
        bad.append(f"the standard deviation {_numbers(std)} is not above 0 and at most 1")
    if not bad:
        return
    problem = " and ".join(bad)
    if any(value > 1 for value in (*mean, *std)) and all(0 <= value <= 255 for value in (*mean, *std)) and min(std) > 0:
        scaled = [[value / 255 if max(values) > 1 else value for value in values] for values in (mean, std)]
        raise InvalidRecord(
            f"{problem}; values from 0 to 255 must be divided by 255, which gives the mean {_numbers(scaled[0])} and "
            f"the standard deviation {_numbers(scaled[1])}"
        )
    raise InvalidRecord(f"{problem}; give those of values from 0 to 1 (values from 0 to 255 must be divided by 255)")


def _numbers(values: Sequence[float]) -> str:
    """As they are typed after `--mean`; of each the first characters, because a file may hold anything."""
    return " ".join(f"{value!r:.40}" for value in values)


@dataclass(frozen=True)
class Bundled:
    """A safetensors file inside the package."""

    path: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        schema.require_hex(self.sha256, 64)


@dataclass(frozen=True)
class Hub:
    """A safetensors file on the Hugging Face Hub.

    Without `revision` it is that of the branch main, without `sha256` the first one that comes is trusted. `layout` is
    None where the tensors have the zoo's names, else that of their names (a module of
    `pyramidzoo.convert.layouts`).
    """

    repo_id: str
    revision: str | None
    filename: str
    sha256: str | None
    bytes: int | None
    layout: str | None = None

    def __post_init__(self) -> None:
        if not _REPO_ID.fullmatch(self.repo_id) or ".." in self.repo_id or "--" in self.repo_id:
            raise InvalidRecord(f"repo_id: {schema.shown(self.repo_id)} cannot be a repository on the Hub")
        if not self.filename or "\\" in self.filename or {"", ".", ".."} & set(self.filename.split("/")):
            raise InvalidRecord(f"filename: {schema.shown(self.filename)} is no path in a repository")
        if self.revision is not None:
            schema.require_hex(self.revision, 40)
        if self.sha256 is not None:
            schema.require_hex(self.sha256, 64)

    @property
    def url(self) -> str:
        """Its page, for people."""
        return f"https://huggingface.co/{self.repo_id}/blob/{self.revision or 'main'}/{self.filename}"


@dataclass(frozen=True)
class FileHash:
    """A digest by `algorithm` of the file itself (`of` "file"), or of the one file in a zip (`of` "member")."""

    algorithm: str
    of: str
    value: str

    def __post_init__(self) -> None:
        if self.algorithm not in _HEX_DIGITS:
            raise InvalidRecord(f"algorithm {schema.shown(self.algorithm)} is none of {sorted(_HEX_DIGITS)}")
        if self.of not in ("file", "member"):
            raise InvalidRecord(
                f"hash of {schema.shown(self.of)}; it can be of the 'file' itself or of the 'member' of a zip"
            )
        schema.require_hex(self.value, _HEX_DIGITS[self.algorithm])

    def __str__(self) -> str:
        whose = " of the file in it" if self.of == "member" else ""
        return f"{self.algorithm.replace('_prefix', ' beginning with')} {self.value}{whose}"


@dataclass(frozen=True)
class Origin:
    """The file as its authors published it. `layout` is a module of `pyramidzoo.convert.layouts`.

    `hash` is None where nobody has published one. Where `url` is a page or a folder from which no program can download,
    `manual` says what to look for there.
    """

    url: str
    format: str
    bytes: int | None
    hash: FileHash | None
    layout: str
    manual: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise InvalidRecord(f"url: {schema.shown(self.url)} is no address on the web")

    @property
    def filename(self) -> str:
        name = self.url.partition("?")[0].rsplit("/", 1)[-1]
        return name if name not in ("", ".", "..") else "checkpoint"


@dataclass(frozen=True)
class Claim:
    """A published error of these very weights, in percent, as printed (the digits carry the rounding)."""

    by: str
    split: str
    protocol: str
    statistic: str
    top1_error: Decimal
    top5_error: Decimal | None
    source: str


@dataclass(frozen=True)
class Result:
    """What was measured: integer counts, and the hash of all predictions in index order."""

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
        schema.require_hex(self.prediction_sha256, 64)
        if not 0 <= self.top1_correct <= self.top5_correct <= self.images > 0:
            raise InvalidRecord("counts must satisfy 0 <= top1_correct <= top5_correct <= images, and images > 0")


@dataclass(frozen=True)
class License:
    """SPDX names, or "none stated" where the authors' repository has none; None where nobody has looked or can tell."""

    code: str | None
    weights: str | None

    @property
    def redistributable(self) -> bool:
        """Whether anybody may publish the weights again: only where their licence is known and says so."""
        return self.weights in _PERMISSIVE


@dataclass(frozen=True)
class WeightsEntry:
    """Everything known about one set of weights. `id` is `architecture.dataset_origin` and never changes."""

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
    training: str | None
    citation: str | None

    def __post_init__(self) -> None:
        plain = f"{self.architecture}.{self.dataset}"
        if not _ID.fullmatch(self.id) or not (self.id == plain or self.id.startswith(f"{plain}_")):
            wanted = schema.shown(plain)[1:-1]
            raise InvalidRecord(f"the id must be {wanted} or {wanted}_ORIGIN")
        if self.architecture not in architectures():
            raise InvalidRecord(f"no architecture is called {schema.shown(self.architecture)}")
        if not isinstance(self.preprocessing, Preprocessing) or not isinstance(self.license, License):
            raise InvalidRecord("preprocessing and license must be known")
        if not (self.bundled or self.hub or self.origin):
            raise InvalidRecord("nothing says where the bytes are: bundled, hub or origin is needed")
        if self.tensors_sha256 is not None:
            schema.require_hex(self.tensors_sha256, 64)

    @property
    def tag(self) -> str:
        return self.id.split(".", 1)[1]


@dataclass(frozen=True)
class Manifest:
    """All entries by id, in the file's order."""

    entries: Mapping[str, WeightsEntry]

    def find(self, name: str) -> WeightsEntry:
        """The entry with that id; `architecture.dataset` is the default one. Raises UsageError with near matches."""
        if name in self.entries:
            return self.entries[name]
        architecture, _, dataset = name.partition(".")
        for entry in self.of_architecture(architecture):
            if entry.default and entry.dataset == dataset:
                return entry
        raise UsageError(f"no weights are called {name!r}; {near_matches(name, self.entries)}")

    def match(self, pattern: str) -> list[WeightsEntry]:
        """Entries whose id or architecture fits a shell pattern."""
        return [
            self.entries[weights_id]
            for weights_id in self.entries
            if fnmatchcase(weights_id, pattern) or fnmatchcase(weights_id.partition(".")[0], pattern)
        ]

    def of_architecture(self, architecture: str) -> list[WeightsEntry]:
        return [self.entries[f"{architecture}.{tag}"] for tag in self.tags(architecture)]

    def tags(self, architecture: str) -> list[str]:
        """What follows the architecture in the ids of its weights; the entries themselves are not looked at."""
        return self._tags.get(architecture, [])

    @cached_property
    def _tags(self) -> Mapping[str, list[str]]:
        tags: dict[str, list[str]] = {}
        for weights_id in self.entries:
            architecture, _, tag = weights_id.partition(".")
            tags.setdefault(architecture, []).append(tag)
        return tags

    def default_for(self, architecture: str, tag: str | None = None) -> WeightsEntry:
        """The entry for a tag (a data set, or data set and origin) of an architecture.

        Without a tag: the default for the architecture's own data set (`Architecture.dataset`), whatever else there is.
        Raises UsageError where there is none.
        """
        entries = self.of_architecture(architecture)
        tags = ", ".join(entry.tag for entry in entries)
        if not entries:
            raise UsageError(
                f"{architecture} has no weights in the manifest; `pyramidzoo list` shows what has, "
                "`pyramidzoo convert` makes a file of your own"
            )
        if tag is not None:
            for entry in entries:
                if tag == entry.tag or (entry.default and tag == entry.dataset):
                    return entry
            raise UsageError(f"{architecture} has no weights tagged {tag!r}; it has {tags}")
        own = architectures()[architecture].dataset
        for entry in entries:
            if entry.default and entry.dataset == own:
                return entry
        raise UsageError(f"{architecture} has no default weights, which would be for {own}; name one of {tags}")

    def with_file(self, sha256: str) -> WeightsEntry | None:
        """The entry whose own file, in the package or on the Hub, has that sha256."""
        for entry in self.entries.values():
            if sha256 in [place.sha256 for place in (entry.bundled, entry.hub) if place]:
                return entry
        return None

    def with_tensors(self, tensors_sha256: str, *, dataset: str | None = None) -> WeightsEntry | None:
        """The entry whose tensors are known to be exactly these, whatever file they came in.

        Of several, it is one for `dataset` where there is one.
        """
        found = [entry for entry in self.entries.values() if entry.tensors_sha256 == tensors_sha256]
        return next((entry for entry in found if entry.dataset == dataset), found[0] if found else None)


def manifest_path() -> Path:
    """The manifest in use: what `PYRAMIDZOO_MANIFEST` names, else the one that belongs to this package."""
    named = os.environ.get(VARIABLE)
    return user_path(named) if named else own_manifest_path()


def own_manifest_path() -> Path:
    """Inside an installed package, or at the root of a checkout. Never the working directory."""
    installed = packaged(FILE_NAME)
    return installed if installed.is_file() else Path(__file__).resolve().parents[2] / FILE_NAME


def announce_manifest() -> None:
    """Say on stderr which manifest is in use, if it is not this package's. Raises UnavailableError."""
    path = manifest_path()
    if os.environ.get(VARIABLE):
        _announced.add(path)
        print(f"pyramidzoo: NOT the zoo's own manifest: {VARIABLE} names {path} ({_told(path)})", file=sys.stderr)


def foreign_manifest() -> str | None:
    """The sha256 of the manifest in use where it is not this package's, for the records of what is measured by it."""
    return file_hash(manifest_path()) if os.environ.get(VARIABLE) else None


def load_manifest() -> Manifest:
    """The manifest in use, each entry checked when it is first looked at; one that is not the package's is announced.

    Raises IntegrityError where the file is damaged, UnavailableError where it is missing, and looking at a damaged
    entry raises IntegrityError too.
    """
    path = manifest_path()
    try:
        status = path.stat()
    except OSError as error:
        raise UnavailableError(f"cannot read the manifest {path}: {error.strerror}; mend it or {_way_out()}") from error
    if os.environ.get(VARIABLE) and path not in _announced:
        announce_manifest()
    return _loaded(path, status.st_mtime_ns, status.st_size, status.st_ino)


def own_manifest() -> Manifest:
    """The one that belongs to this package, whatever is in use."""
    return _loaded(own_manifest_path())


@cache
def _loaded(path: Path, *state: int) -> Manifest:
    if path == own_manifest_path():  # a test has checked that one
        return Manifest(_Entries(_weights(path, object_pairs_hook=None), path.name))
    weights = _weights(path, object_pairs_hook=_no_duplicates)
    _require_single_defaults(weights, path)
    return Manifest(_Entries(weights, path.name))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file and check all of it. Raises IntegrityError, which names the entry and the field."""
    weights = _weights(path, object_pairs_hook=_no_duplicates)
    manifest = Manifest(_Entries(weights, path.name))
    list(manifest.entries.values())
    _require_single_defaults(weights, path)
    return manifest


def _require_single_defaults(weights: dict[str, Any], path: Path) -> None:
    """Before the entries are looked at: whatever else they hold, two of them cannot be the default for one data set."""
    defaults: dict[str, str] = {}
    for weights_id, content in weights.items():
        if isinstance(content, dict) and content.get("default") is True:
            key = json.dumps([content.get("architecture"), content.get("dataset")])
            other = defaults.setdefault(key, weights_id)
            if other != weights_id:
                raise IntegrityError(
                    f"{path.name}: {weights_id}: {other} is the default for {content.get('dataset')} already; unset "
                    "one of them"
                )


def _weights(path: Path, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None) -> dict[str, Any]:
    """The entries as the JSON has them."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=object_pairs_hook)
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"cannot read the manifest {path}: {error}; mend it or {_way_out()}") from error
    weights = document.get("weights") if isinstance(document, dict) and document.get("format") == FORMAT else None
    if not isinstance(weights, dict):
        raise IntegrityError(f"{path.name}: not a manifest of format {FORMAT}; mend it or {_way_out()}")
    extends = document.get("extends", False)
    if not isinstance(extends, bool):
        raise IntegrityError(f"{path.name}: extends is true or false, not {extends!r}; mend it or {_way_out()}")
    return _extended(weights) if extends and path != own_manifest_path() else weights


def _extended(weights: dict[str, Any]) -> dict[str, Any]:
    """These entries before the package's, whose place they take where the id is the same; so do their defaults."""

    def key(content: Any) -> Any:
        return (content.get("architecture"), content.get("dataset")) if isinstance(content, dict) else None

    own = _weights(own_manifest_path(), object_pairs_hook=None)
    taken = [key(content) for content in weights.values() if isinstance(content, dict) and content.get("default")]
    for weights_id, content in own.items():
        weights.setdefault(weights_id, {**content, "default": content["default"] and key(content) not in taken})
    return weights


def _told(path: Path) -> str:
    """What a manifest is, in a few words."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        own, number = "are used too" if document.get("extends") is True else "are not used", len(document["weights"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "which cannot be read"
    return f"{number} entries, sha256 {file_hash(path)[:8]}...; the zoo's own {own}"


def _way_out() -> str:
    return f"unset {VARIABLE}" if os.environ.get(VARIABLE) else "reinstall pyramidzoo"


class _Entries(Mapping[str, WeightsEntry]):
    """Records made from their JSON when they are first asked for: most commands look at a few of hundreds."""

    def __init__(self, contents: dict[str, Any], file: str) -> None:
        self._contents, self._file = contents, file
        self._made: dict[str, WeightsEntry] = {}

    def __getitem__(self, weights_id: str) -> WeightsEntry:
        if weights_id not in self._made:
            content = self._contents[weights_id]
            try:
                self._made[weights_id] = _entry({"id": weights_id, **content})
            except (TypeError, AttributeError, ValueError) as error:
                raise IntegrityError(f"{self._file}: {weights_id}: {error}; mend the entry or {_way_out()}") from error
        return self._made[weights_id]

    def __contains__(self, weights_id: object) -> bool:
        return weights_id in self._contents

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)


_NESTED: Mapping[str, type] = {
    "preprocessing": Preprocessing,
    "bundled": Bundled,
    "hub": Hub,
    "origin": Origin,
    "hash": FileHash,
    "license": License,
}
_LISTS: Mapping[str, type] = {"claims": Claim, "results": Result}


def _entry(content: Any) -> WeightsEntry:
    """One entry, its nested objects first. Raises Invalid, which names the field."""
    return schema.record(WeightsEntry, _nested(content))


def _nested(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    values = {}
    for name, value in content.items():
        try:
            values[name] = _value(name, value)
        except InvalidRecord as error:
            raise InvalidRecord(f"{name}: {error}") from None
    return values


def _value(name: str, value: Any) -> Any:
    if name in _NESTED and value is not None:
        return schema.record(_NESTED[name], _nested(value))
    if name in _LISTS:
        if not isinstance(value, list):
            raise InvalidRecord(f"{schema.shown(value)} is not a list")
        return tuple(schema.record(_LISTS[name], _nested(item)) for item in value)
    if name in ("top1_error", "top5_error") and value is not None:
        return _published(value)
    if isinstance(value, list):
        return tuple(value)
    return MappingProxyType(value) if isinstance(value, dict) else value


def _published(value: Any) -> Decimal:
    if not isinstance(value, str):
        raise InvalidRecord("a published error is a string: its digits carry the rounding")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidRecord(f"{schema.shown(value)} is no number") from None
    if not number.is_finite() or not 0 <= number <= 100:
        raise InvalidRecord(f"{schema.shown(value)} is no error in percent")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):  # json itself would keep the last one
        counts = Counter(key for key, _ in pairs)
        raise InvalidRecord(f"{schema.shown(max(counts, key=counts.__getitem__))} stands twice")
    return result
