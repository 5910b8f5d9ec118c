"""Standard output of every command and the exit code of every failure, as programs meet them.

Output is in `tests/data/pinned/output.json`, exit codes in `exit_codes.json`. What goes to stderr is for people and may
be worded anew.
"""

from __future__ import annotations

import json
import lzma
import os
import resource
import shutil
import signal
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pinned import (
    ROOT,
    SAMPLES,
    is_writing,
    names_in,
    read_tensors,
    run,
    same,
    stable,
    stable_csv,
    start,
    type_of,
    unpack,
    write_sealed,
)
from safetensors.torch import save_file

import pyramidzoo

DIGITS = "wrn_16_1.digits_zoo"
LAB = "wrn_16_1.cifar10_lab"
MANIFEST = ("PYRAMIDZOO_MANIFEST", "{samples}/manifest.json")
ORIGINS = ("PYRAMIDZOO_ORIGINS", "{files}")


@dataclass(frozen=True)
class Command:
    """Arguments as one types them; {tmp}, {samples} and {files} stand for folders. `env` are variables."""

    line: str
    env: tuple[tuple[str, str], ...] = ()
    varies: tuple[str, ...] = ()  # columns of CSV and keys of JSON whose numbers differ from run to run

    def arguments(self, places: Mapping[str, Path]) -> list[str]:
        return [part.format_map({name: str(path) for name, path in places.items()}) for part in self.line.split()]


# what bench measures
_MEASURED = (
    "activations_mib",
    "forward_passes",
    "fraction_of_peak",
    "gflops",
    "images_per_second",
    "images_per_second_max",
    "images_per_second_min",
    "milliseconds",
    "ratio",
    "ratio_by_round",
    "runs",
)
_LEARNED = ("loss", "training_error", "test_error")
BENCH = "bench wrn_16_1.digits_zoo -b 1 --rounds 1 --variants plain optimized --threads 1"
BESIDE = "bench wrn_16_1 -b 1 --rounds 1 --variants plain --peers pytorchcv"
CONVERT = "convert {files}/lab.pth --dataset cifar10 --output {tmp}/new.safetensors"
NAMED = f"{CONVERT} --layout zoo --arch wrn_16_1"
CONSTANTS = "--mean 0.2 0.3 0.4 --std 0.1 0.2 0.3"
ZOO = f"{NAMED} {CONSTANTS}"

JSON: Mapping[str, Command] = {
    "list": Command("list"),
    "list of a pattern": Command("list wrn_16_*"),
    "list of weights": Command("list --weights"),
    "list of one set of weights": Command("list wrn_16_1.cifar10_ferles"),
    "list by family": Command("list --family vgg"),
    "list by data set": Command("list --dataset digits"),
    "list by license": Command("list --weights --license redistributable resnet2*"),
    "list by origin": Command("list --weights --origin akamaster"),
    "list by all of them": Command(
        "list --weights --dataset cifar10 --license MIT --origin pytorchcv --family pyramidnet"
    ),
    "list of what is here": Command("list --weights --local"),
    "list with another manifest": Command("list --weights wrn_16_1*", (MANIFEST,)),
    "info of an architecture": Command("info wrn_16_1"),
    "info of an architecture without weights": Command("info preresnet110_a"),
    "info of a large architecture": Command("info resnet50"),
    "info of bundled weights": Command("info wrn_16_1.digits"),
    "info of weights of the Hub": Command("info resnet50.imagenet1k"),
    "info of weights with a claim": Command("info resnet20_fattorib.cifar10"),
    "info of a file": Command("info {files}/good.safetensors"),
    "info of a file of another program": Command("info {files}/plain.safetensors"),
    "fetch of bundled weights": Command("fetch wrn_16_1.digits resnet20.digits_*"),
    "fetch of a file": Command("fetch {files}/good.safetensors"),
    "fetch from a folder of origins": Command("fetch wrn_16_1.cifar10_lab", (MANIFEST, ORIGINS)),
    "fetch of what is not here": Command("fetch wrn_16_1.cifar10 wrn_16_1.digits"),
    "verify of bundled weights": Command("verify wrn_16_1.digits resnet20.digits"),
    "verify of files in every state": Command(
        "verify {files}/good.safetensors {files}/plain.safetensors {files}/mine.safetensors {files}/cut.safetensors "
        "{files}/none.safetensors wrn_16_1.cifar10"
    ),
    "convert": Command(ZOO),
    "convert to what the manifest knows": Command(ZOO, (MANIFEST,)),
    "evaluate": Command("evaluate"),
    "evaluate the training images": Command("evaluate wrn_16_1.digits --split train"),
    "evaluate with claims": Command("evaluate wrn_16_1.digits", (MANIFEST,)),
    "evaluate and compare": Command("evaluate wrn_16_1.digits --optimize --compare"),
    "evaluate a file": Command("evaluate {files}/good.safetensors"),
    "evaluate with failures": Command(
        "evaluate wrn_16_1.digits wrn_16_1.cifar10 {files}/cut.safetensors {files}/none.safetensors"
    ),
    "tables": Command("tables"),
    "tables of one": Command("tables P1"),
    "tables of records": Command("tables Z --records {samples}/records"),
    "bench": Command(BENCH + " --peers none", varies=_MEASURED),
    "bench beside a peer": Command(BESIDE, varies=_MEASURED),
    "train": Command("train wrn_16_1 --epochs 1 --output {tmp}/made", varies=_LEARNED),
    "publish, a dry run": Command("publish wrn_16_1.digits --org lab --dry-run --output {tmp}/made"),
    "publish all of another manifest": Command(
        "publish --all --org lab --dry-run --output {tmp}/made", (MANIFEST,)
    ),
}  # fmt: skip
# what has little more than rows; the rows of a list in JSON show what a changed hash of other rows means
CSV = (
    "list",
    "list of weights",
    "list by all of them",
    "info of an architecture",
    "info of bundled weights",
    "info of a file",
    "fetch of bundled weights",
    "fetch of what is not here",
    "verify of files in every state",
    "convert",
    "evaluate",
    "evaluate with claims",
    "evaluate and compare",
    "evaluate with failures",
    "tables",
    "tables of records",
    "bench",
    "train",
    "publish, a dry run",
    "publish all of another manifest",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that commands meet: good ones, and damaged ones of every kind."""
    folder = tmp_path_factory.mktemp("files")
    (bundled,) = (Path(row["path"]) for row in run("fetch", DIGITS, "--format", "json").json())
    metadata, tensors = read_tensors(bundled)
    shutil.copy(bundled, folder / "good.safetensors")
    content = bundled.read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:-10])
    (folder / "garbage.safetensors").write_bytes(b"garbage")
    (folder / "empty.safetensors").write_bytes(b"")
    save_file(tensors, folder / "plain.safetensors")  # as another program writes them
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken["fc.bias"][3] = float("nan")
    save_file(broken, folder / "nan.safetensors", metadata)
    save_file(tensors | {"fc.bias": tensors["fc.bias"] + 1}, folder / "mine.safetensors", metadata)
    save_file({k: v for k, v in tensors.items() if k != "fc.bias"}, folder / "missing.safetensors", metadata)
    save_file({**tensors, "more": torch.zeros(1)}, folder / "more.safetensors", metadata)
    save_file({**tensors, "fc.bias": torch.zeros(11)}, folder / "shape.safetensors", metadata)
    other = json.loads(metadata["pyramidzoo"]) | {"architecture": "resnet20"}
    save_file(tensors, folder / "other.safetensors", metadata | {"pyramidzoo": json.dumps(other)})
    save_file(tensors, folder / "words.safetensors", metadata | {"pyramidzoo": "{}"})
    for name, count in (("empty", 0), ("two", 2)):
        (folder / name).mkdir()
        for number in range(count):
            shutil.copy(bundled, folder / name / f"{number}.safetensors")
    unpack("lab.pth.xz", folder / "lab.pth")
    (folder / "cut.pth").write_bytes((folder / "lab.pth").read_bytes()[:-5000])
    (folder / "empty.pth").write_bytes(b"")
    torch.save({"something.weight": torch.zeros(3)}, folder / "strange.pth")
    torch.save(pyramidzoo.create_model("preresnet20").state_dict() | {"fc.bias": torch.zeros(11)}, folder / "shape.pth")
    torch.save(_unsafe(), folder / "unsafe.pth")
    _manifests(folder)
    _results(folder)
    return folder


def _unsafe() -> Any:
    class Loud:
        def __reduce__(self) -> Any:
            return os.system, ("exit 1",)

    return {"state_dict": Loud()}


def _manifests(folder: Path) -> None:
    document = json.loads((SAMPLES / "manifest.json").read_text())
    digits = document["weights"][DIGITS]

    def write(name: str, **changes: Any) -> None:
        (folder / f"{name}.json").write_text(json.dumps(document | changes))

    (folder / "broken.json").write_text("{")
    write("list", weights=[])
    write("format", format=2)
    write("extends", extends="yes")
    write("hash", weights={DIGITS: digits | {"bundled": digits["bundled"] | {"sha256": "abc"}}})
    write("field", weights={DIGITS: digits | {"nonsense": 1}})
    write("defaults", weights={DIGITS: digits, "wrn_16_1.digits_lab": digits})
    wrong = digits["results"][0] | {"top1_correct": 880}
    write("counts", weights={DIGITS: digits | {"claims": [], "results": [wrong]}})
    moved = digits["results"][0] | {"prediction_sha256": "0" * 64}
    write("moved", weights={DIGITS: digits | {"claims": [], "results": [moved]}})
    write("claim", weights={DIGITS: digits | {"claims": [digits["claims"][0] | {"top1_error": "5.00"}]}})
    write("tensors", weights={DIGITS: digits | {"tensors_sha256": "0" * 64}})
    write("bundled", weights={DIGITS: digits | {"bundled": digits["bundled"] | {"sha256": "0" * 64}}})
    lab = document["weights"][LAB]
    origin = lab["origin"]
    write("origin", weights={LAB: lab | {"origin": origin | {"hash": origin["hash"] | {"value": "0" * 64}}}})
    write("lab_tensors", weights={LAB: lab | {"tensors_sha256": "0" * 64}})
    write("license", weights={DIGITS: digits | {"license": {"code": "MIT", "weights": "none stated"}}})
    write("measured", weights={DIGITS: digits | {"results": []}})
    hub = {"repo_id": "lab/net", "revision": "1" * 40, "filename": "model.safetensors", "sha256": "1" * 64}
    hub |= {"bytes": 1, "layout": None}
    write("hub", weights={DIGITS: digits | {"bundled": None, "hub": hub}})


def _results(folder: Path) -> None:
    """Folders that results and trainings are looked for in."""
    record = json.loads((SAMPLES / "predictions" / "record.json").read_text())
    for name, content in (
        ("record_broken", "{"),
        ("record_format", json.dumps(record | {"format": 2})),
        ("record_counts", json.dumps(record | {"top1_correct": 900})),
        ("record_type", json.dumps(record | {"images": "899"})),
    ):
        (folder / name).mkdir()
        (folder / name / "record.json").write_text(content)
    for name in ("training", "training_cut", "training_altered"):
        unpack("training/wrn_16_1.digits.checkpoint.xz", folder / name / "wrn_16_1.digits.checkpoint")
    cut = folder / "training_cut" / "wrn_16_1.digits.checkpoint"
    cut.write_bytes(cut.read_bytes()[:-1000])
    altered = folder / "training_altered" / "wrn_16_1.digits.checkpoint"
    metadata, tensors = read_tensors(altered)
    save_file({**tensors, "order": tensors["order"] ^ 1}, altered, metadata)
    nan = {**tensors, "model.fc.bias": torch.full((10,), float("nan"))}
    write_sealed(folder / "training_nan" / "wrn_16_1.digits.checkpoint", nan, metadata)
    unpack("finished/wrn_16_1.digits.safetensors.xz", folder / "finished" / "wrn_16_1.digits.safetensors")
    (folder / "foreign").mkdir()
    shutil.copy(folder / "good.safetensors", folder / "foreign" / "wrn_16_1.digits.safetensors")


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has of the Hub is not seen."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """`bench --threads` is for the whole process, which is ours here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def places(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders by the words that stand for them. The working directory is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return {"files": files, "samples": SAMPLES, "tmp": tmp_path, "root": ROOT}


def cheap_or_slow(names: Iterable[str], slow: Container[str]) -> list[Any]:
    """The names as parameters of a test; those that cost seconds and hold little of their own are marked slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def shown(value: Any, places: Mapping[str, Path], varies: tuple[str, ...] = ()) -> Any:
    """A document without what varies."""
    words = {name.upper(): path for name, path in places.items()}
    return _without(stable(value, words), varies)


def _without(value: Any, varies: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {k: type_of(v) if k in varies else _without(v, varies) for k, v in value.items()}
    return [_without(part, varies) for part in value] if isinstance(value, list) else value


def observed(command: Command, format: str, places: Mapping[str, Path], patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in command.env:
        patch.setenv(name, value.format_map({word: str(path) for word, path in places.items()}))
    ran = run(*command.arguments(places), "--format", format)
    if format == "json":
        document = json.loads(ran.out)
        out = shown(document, places, command.varies)
    else:
        words = {name.upper(): path for name, path in places.items()}
        out = stable_csv(ran.out, words, command.varies)
    # the order of keys is seen by people who read the text, and by a CSV file's readers
    keys = list(document[0]) if format == "json" and isinstance(document, list) and document else None
    return {"command": command.line, "exit code": ran.code, "output": out} | ({"order of keys": keys} if keys else {})


@pytest.mark.parametrize("name", cheap_or_slow(JSON, {"bench beside a peer", "convert to what the manifest knows"}))
def test_json(name: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = observed(JSON[name], "json", places, monkeypatch)
    if name.startswith("bench"):  # precisions by name; how fast a convolution is varies
        peaks = found["output"]["best_convolution_gflops"]
        found["output"]["best_convolution_gflops"] = type_of(peaks)
    same("output", f"{name}, json", found)


@pytest.mark.parametrize("name", cheap_or_slow(CSV, {"bench", "convert", "train"}))
def test_csv(name: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    same("output", f"{name}, csv", observed(JSON[name], "csv", places, monkeypatch))


def test_publish_all(places: dict[str, Path]) -> None:
    """A row for each set of weights of the zoo; these are the ones that are not refused."""
    ran = run("publish", "--all", "--org", "lab", "--dry-run", "--output", places["tmp"] / "made", "--format", "json")
    rows = json.loads(ran.out)
    refused = [row["weights"] for row in rows if row["state"] == "refused"]
    assert {key for row in rows if row["state"] == "refused" for key in row if row[key] is None} == {
        key for key in rows[0] if key not in ("weights", "state", "detail")
    }
    assert [row["weights"] for row in rows] == pyramidzoo.list_weights()
    others = [shown(row, places) for row in rows if row["state"] != "refused"]
    same(
        "output",
        "publish all, a dry run, json",
        {"exit code": ran.code, "number refused": len(refused), "rows": others},
    )


def test_version() -> None:
    """The version itself is not pinned, the line that has it is."""
    ran = run("--version")
    assert (ran.code, ran.out) == (0, f"pyramidzoo {pyramidzoo.__version__}\n")


def test_formats_for_people_print_the_same_facts() -> None:
    """How the words are set is not pinned; that something is printed is."""
    for line in (
        "list",
        "list --weights",
        "info wrn_16_1",
        "info wrn_16_1.digits",
        "tables F1",
        "verify wrn_16_1.digits",
    ):
        for format in ("human", "markdown"):
            ran = run(*line.split(), "--format", format)
            assert (ran.code, bool(ran.out.strip())) == (0, True), (line, format)
        assert run(*line.split()).out == run(*line.split(), "--format", "human").out


def test_every_expectation_is_checked() -> None:
    if is_writing():
        pytest.skip("expectations are being written anew")
    wanted = [f"{name}, json" for name in JSON] + [f"{name}, csv" for name in CSV]
    wanted.append("publish all, a dry run, json")
    assert sorted(names_in("output")) == sorted(wanted)
    assert sorted(names_in("exit_codes")) == sorted([*SITUATIONS, *PROCESSES])


# --- exit codes ---


@dataclass(frozen=True)
class Situation(Command):
    """A command that fails. `limit` is the largest file that may be written, in bytes."""

    stdout: str = "kept"
    limit: int | None = None
    prepare: Callable[[Path], object] = field(default=lambda tmp: None)


def manifest(name: str) -> tuple[tuple[str, str], ...]:
    return (("PYRAMIDZOO_MANIFEST", f"{{files}}/{name}.json"),)


def _in_cache(tmp: Path, name: str, content: bytes, sidecar: Mapping[str, Any] | None = None) -> None:
    folder = tmp / "cache" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(content)
    if sidecar is not None:
        (folder / f"{name}.json").write_text(json.dumps(sidecar))


def _damaged_cache(tmp: Path) -> None:
    content = bytearray(lzma.decompress((SAMPLES / "cache" / f"{LAB}.safetensors.xz").read_bytes()))
    content[-1] ^= 1
    _in_cache(tmp, LAB, bytes(content), json.loads((SAMPLES / "cache" / f"{LAB}.json").read_text()))


def _copy(source: str) -> Callable[[Path], object]:
    """Copies a folder of results to {tmp}/out."""

    def prepare(tmp: Path) -> None:
        shutil.copytree(tmp / "files" / source, tmp / "out")

    return prepare


def _file(tmp: Path) -> None:
    (tmp / "file").write_text("")


LONG = "x" * 300
TRAIN = "train wrn_16_1 --epochs 2 --output {tmp}/out"
PUBLISH = "publish wrn_16_1.digits --org lab --dry-run --output {tmp}/made"
SMALL = "bench wrn_16_1 -b 1 --rounds 1 --variants plain --peers none"

SITUATIONS: Mapping[str, Situation] = {
    # the command line itself
    "no command": Situation(""),
    "unknown command": Situation("nonsense"),
    "help": Situation("--help"),
    "help of a command": Situation("evaluate --help"),
    "unknown option": Situation("list --nonsense"),
    "shortened option": Situation("evaluate wrn_16_1 --batch 3"),
    "unknown format": Situation("list --format xml"),
    "closed standard output": Situation("list", stdout="none"),
    "bug": Situation("list", stdout="broken"),
    # another manifest
    "manifest: missing": Situation("list", manifest("nowhere")),
    "manifest: not JSON": Situation("list", manifest("broken")),
    "manifest: not JSON, evaluate": Situation("evaluate wrn_16_1.digits", manifest("broken")),
    "manifest: not JSON, publish": Situation(PUBLISH, manifest("broken")),
    "manifest: a list of weights": Situation("list", manifest("list")),
    "manifest: another format": Situation("list", manifest("format")),
    "manifest: extends is a word": Situation("list", manifest("extends")),
    "manifest: a hash that is none": Situation("fetch wrn_16_1.digits_zoo", manifest("hash")),
    "manifest: an unknown field": Situation("fetch wrn_16_1.digits_zoo", manifest("field")),
    "manifest: two defaults": Situation("list", manifest("defaults")),
    # list and info
    "list: nothing fits": Situation("list resnet21"),
    "list: unknown family": Situation("list --family resnets"),
    "list: unknown data set": Situation("list --dataset cifar11"),
    "list: unknown license": Situation("list --license GPL-3.0"),
    "list: unknown origin": Situation("list --origin akamastr"),
    "list: filters that exclude each other": Situation("list vgg* --family pyramidnet"),
    "list: an architecture without weights": Situation("list --weights preresnet110_a"),
    "list: nothing is here": Situation("list pyramidnet* --local"),
    "info: unknown name": Situation("info resnet21"),
    "info: unknown weights": Situation("info resnet20_fattorib.cifar11"),
    "info: missing file": Situation("info {tmp}/none.safetensors"),
    "info: damaged file": Situation("info {files}/cut.safetensors"),
    "info: NaN": Situation("info {files}/nan.safetensors"),
    "info: metadata that are none": Situation("info {files}/words.safetensors"),
    "info: folder without a file": Situation("info {files}/empty/"),
    "info: folder of two files": Situation("info {files}/two/"),
    "info: a checkpoint of another kind": Situation("info {files}/lab.pth"),
    # fetch
    "fetch: nothing named": Situation("fetch"),
    "fetch: unknown weights": Situation("fetch cifar10"),
    "fetch: no download at once": Situation("fetch wrn_16_1.digits -j 0"),
    "fetch: jobs that are a word": Situation("fetch wrn_16_1.digits -j x"),
    "fetch: offline": Situation("fetch wrn_16_1.cifar10"),
    "fetch: offline, some are here": Situation("fetch wrn_16_1.digits wrn_16_1.cifar10"),
    "fetch: offline, of the Hub": Situation("fetch resnet50.imagenet1k"),
    "fetch: offline, what the Hub should have": Situation("fetch wrn_16_1.digits_zoo", manifest("hub")),
    "fetch: missing file": Situation("fetch {tmp}/none.safetensors"),
    "fetch: damaged file": Situation("fetch {files}/cut.safetensors"),
    "fetch: damaged file and offline": Situation("fetch {files}/cut.safetensors wrn_16_1.cifar10"),
    "fetch: bundled file with another hash": Situation("fetch wrn_16_1.digits_zoo", manifest("bundled")),
    "fetch: folder of origins has another file": Situation(
        "fetch wrn_16_1.cifar10_lab", (ORIGINS, *manifest("origin"))
    ),
    "fetch: origin has other tensors": Situation("fetch wrn_16_1.cifar10_lab", (ORIGINS, *manifest("lab_tensors"))),
    "fetch: cache that cannot be written": Situation(
        "fetch wrn_16_1.cifar10_lab",
        (ORIGINS, MANIFEST, ("PYRAMIDZOO_CACHE", "{tmp}/file/below")),
        prepare=_file,
    ),
    "fetch: disk full": Situation("fetch wrn_16_1.cifar10_lab", (ORIGINS, MANIFEST), limit=100_000),
    # verify
    "verify: nothing named": Situation("verify"),
    "verify: weights and all": Situation("verify wrn_16_1.digits --all"),
    "verify: unknown weights": Situation("verify resnet21"),
    "verify: not here": Situation("verify wrn_16_1.cifar10"),
    "verify: damaged in the cache": Situation("verify wrn_16_1.cifar10_lab", (MANIFEST,), prepare=_damaged_cache),
    "verify: stranger in the cache": Situation("verify --all", prepare=lambda tmp: _in_cache(tmp, "stranger", b"x")),
    "verify: nothing vouches": Situation(
        "verify wrn_16_1.cifar10", prepare=lambda tmp: _in_cache(tmp, "wrn_16_1.cifar10_ferles", b"x")
    ),
    "verify: missing file": Situation("verify {tmp}/none.safetensors"),
    "verify: damaged file": Situation("verify {files}/cut.safetensors"),
    "verify: unknown file": Situation("verify {files}/mine.safetensors"),
    "verify: NaN": Situation("verify {files}/nan.safetensors"),
    "verify: folder without a file": Situation("verify {files}/empty/"),
    "verify: bundled file with another hash": Situation("verify wrn_16_1.digits_zoo", manifest("bundled")),
    # convert
    "convert: no data set": Situation("convert {files}/lab.pth --output {tmp}/new.safetensors"),
    "convert: no output": Situation("convert {files}/lab.pth --dataset cifar10"),
    "convert: unknown data set": Situation("convert {files}/lab.pth --dataset cifar11 --output {tmp}/new.safetensors"),
    "convert: output of another kind": Situation("convert {files}/lab.pth --dataset cifar10 --output {tmp}/new.pth"),
    "convert: unknown architecture": Situation(f"{CONVERT} --layout zoo --arch resnet21 {CONSTANTS}"),
    "convert: unknown layout": Situation(f"{CONVERT} --layout nobody --arch wrn_16_1 {CONSTANTS}"),
    "convert: another architecture": Situation(f"{CONVERT} --layout zoo --arch wrn_40_1 {CONSTANTS}"),
    "convert: another layout": Situation(f"{CONVERT} --layout akamaster --arch wrn_16_1 {CONSTANTS}"),
    "convert: constants are needed": Situation(
        "convert {files}/lab.pth --dataset cifar100 --layout ferles --arch wrn_16_1 --output {tmp}/new.safetensors"
    ),
    "convert: a layout that says nothing of constants": Situation(NAMED),
    "convert: mean without std": Situation(f"{NAMED} --mean 0 0 0"),
    "convert: std of zero": Situation(f"{NAMED} --mean 0 0 0 --std 0 1 1"),
    "convert: constants of one channel": Situation(f"{NAMED} --mean 0 --std 1"),
    "convert: mean that is a word": Situation(f"{NAMED} --mean x --std 1"),
    "convert: missing file": Situation(ZOO.replace("lab.pth", "none.pth")),
    "convert: damaged file": Situation(ZOO.replace("lab.pth", "cut.pth")),
    "convert: empty file": Situation(ZOO.replace("lab.pth", "empty.pth")),
    "convert: unknown tensors": Situation(CONVERT.replace("lab.pth", "strange.pth")),
    "convert: a pickle that runs a command": Situation(ZOO.replace("lab.pth", "unsafe.pth")),
    "convert: tensors of another shape": Situation(
        f"{CONVERT} --layout zoo --arch preresnet20 {CONSTANTS}".replace("lab.pth", "shape.pth")
    ),
    "convert: output folder that cannot be made": Situation(
        ZOO.replace("{tmp}/new", "{tmp}/file/below/new"), prepare=_file
    ),
    "convert: empty path": Situation("convert {files}/lab.pth --dataset cifar10 --output="),
    "convert: disk full": Situation(ZOO, limit=100_000),
    # evaluate
    "evaluate: unknown name": Situation("evaluate resnet21"),
    "evaluate: unknown weights": Situation("evaluate resnet20.cifar100"),
    "evaluate: no weights": Situation("evaluate preresnet110_a"),
    "evaluate: missing file": Situation("evaluate nothing.safetensors"),
    "evaluate: a checkpoint of another kind": Situation("evaluate {files}/lab.pth"),
    "evaluate: a folder without a file": Situation("evaluate ./"),
    "evaluate: a name that is too long": Situation(f"evaluate {LONG}.safetensors"),
    "evaluate: no data": Situation("evaluate wrn_16_1.cifar10"),
    "evaluate: data folder that is missing": Situation("evaluate wrn_16_1.cifar10 --data-dir nowhere"),
    "evaluate: data folder that is too long": Situation(f"evaluate wrn_16_1.cifar10 --data-dir {LONG}"),
    "evaluate: data folder that is empty": Situation("evaluate wrn_16_1.cifar10 --data-dir {files}/empty"),
    "evaluate: no data of ImageNet": Situation("evaluate resnet50.imagenet1k --data-dir {files}/empty"),
    "evaluate: no batch": Situation("evaluate wrn_16_1.digits -b 0"),
    "evaluate: batch that is a word": Situation("evaluate wrn_16_1.digits -b x"),
    "evaluate: jobs below zero": Situation("evaluate wrn_16_1.digits -j -1"),
    "evaluate: type without mixed precision": Situation("evaluate wrn_16_1.digits --amp-dtype fp16"),
    "evaluate: mixed and lower precision": Situation("evaluate wrn_16_1.digits --amp --precision bf16"),
    "evaluate: unknown precision": Situation("evaluate wrn_16_1.digits --precision fp8"),
    "evaluate: tf32 on a CPU": Situation("evaluate wrn_16_1.digits --precision tf32 --device cpu"),
    "evaluate: CUDA graph on a CPU": Situation("evaluate wrn_16_1.digits --cuda-graph --device cpu"),
    "evaluate: unknown device": Situation("evaluate wrn_16_1.digits --device gpu"),
    "evaluate: device that is missing": Situation("evaluate wrn_16_1.digits --device cuda:99"),
    "evaluate: unknown split": Situation("evaluate wrn_16_1.digits --split val"),
    "evaluate: unknown interpolation": Situation("evaluate wrn_16_1.digits --interpolation nearest"),
    "evaluate: sizes for small images": Situation("evaluate wrn_16_1.digits --resize 10 --crop 8"),
    "evaluate: crop larger than the image": Situation("evaluate wrn_16_1.digits --resize 8 --crop 10"),
    "evaluate: nothing to compare": Situation("evaluate wrn_16_1.digits --compare"),
    "evaluate: output without a name": Situation("evaluate wrn_16_1.digits --output="),
    "evaluate: output that cannot be made": Situation(
        "evaluate wrn_16_1.digits --output {tmp}/file/below", prepare=_file
    ),
    "evaluate: disk full": Situation("evaluate wrn_16_1.digits --output {tmp}/out", limit=5_000),
    "evaluate: disk full at the record": Situation(
        "evaluate wrn_16_1.digits --output {tmp}/out",
        limit=1_000,
        prepare=lambda tmp: (
            run("evaluate", DIGITS, "--output", tmp / "out"),
            next((tmp / "out").rglob("record.json")).unlink(),
        ),
    ),
    "evaluate: damaged file": Situation("evaluate {files}/cut.safetensors"),
    "evaluate: garbage": Situation("evaluate {files}/garbage.safetensors"),
    "evaluate: empty file": Situation("evaluate {files}/empty.safetensors"),
    "evaluate: NaN": Situation("evaluate {files}/nan.safetensors"),
    "evaluate: a tensor is missing": Situation("evaluate {files}/missing.safetensors"),
    "evaluate: a tensor too many": Situation("evaluate {files}/more.safetensors"),
    "evaluate: a tensor of another shape": Situation("evaluate {files}/shape.safetensors"),
    "evaluate: a file of another network": Situation("evaluate {files}/other.safetensors"),
    "evaluate: metadata that are none": Situation("evaluate {files}/words.safetensors"),
    "evaluate: a file that says nothing of itself": Situation("evaluate {files}/plain.safetensors"),
    "evaluate: bundled file with another hash": Situation("evaluate wrn_16_1.digits_zoo", manifest("bundled")),
    "evaluate: other tensors than recorded": Situation("evaluate wrn_16_1.digits_zoo", manifest("tensors")),
    "evaluate: counts not reproduced": Situation("evaluate wrn_16_1.digits_zoo", manifest("counts")),
    "evaluate: predictions not reproduced": Situation("evaluate wrn_16_1.digits_zoo", manifest("moved")),
    "evaluate: claim not reproduced": Situation("evaluate wrn_16_1.digits_zoo", manifest("claim")),
    "evaluate: claim not judged without strict arithmetic": Situation(
        "evaluate wrn_16_1.digits_zoo --channels-last", manifest("claim")
    ),
    "evaluate: a missing file before not reproduced": Situation(
        "evaluate wrn_16_1.digits_zoo nothing.safetensors", manifest("counts")
    ),
    "evaluate: damaged before missing": Situation("evaluate nothing.safetensors {files}/cut.safetensors"),
    "evaluate: wrong request before damaged": Situation("evaluate {files}/cut.safetensors {files}/lab.pth"),
    "evaluate: torchrun may start again, so it gets 0": Situation(
        "evaluate wrn_16_1.digits_zoo",
        (
            *manifest("counts"),
            ("TORCHELASTIC_RUN_ID", "x"),
            ("TORCHELASTIC_MAX_RESTARTS", "3"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("LOCAL_RANK", "0"),
        ),
    ),
    "evaluate: torchrun will not start again": Situation(
        "evaluate wrn_16_1.digits_zoo",
        (
            *manifest("counts"),
            ("TORCHELASTIC_RUN_ID", "x"),
            ("TORCHELASTIC_MAX_RESTARTS", "3"),
            ("TORCHELASTIC_RESTART_COUNT", "3"),
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("LOCAL_RANK", "0"),
        ),
    ),
    # tables
    "tables: unknown table": Situation("tables Z1"),
    "tables: folder of records is missing": Situation("tables --records nowhere"),
    "tables: folder without records": Situation("tables --records {files}/empty"),
    "tables: broken record": Situation("tables --records {files}/record_broken"),
    "tables: record of another format": Situation("tables --records {files}/record_format"),
    "tables: record of impossible counts": Situation("tables --records {files}/record_counts"),
    "tables: record with a word for a number": Situation("tables --records {files}/record_type"),
    # bench
    "bench: unknown name": Situation("bench resnet21"),
    "bench: unknown pattern": Situation("bench resnet21*"),
    "bench: unknown weights": Situation("bench resnet20.nothing"),
    "bench: a file": Situation("bench ./mine.safetensors"),
    "bench: no batch": Situation("bench wrn_16_1 -b 0"),
    "bench: no rounds": Situation("bench wrn_16_1 --rounds 0"),
    "bench: no threads": Situation("bench wrn_16_1 --threads 0"),
    "bench: unknown variant": Situation("bench wrn_16_1 --variants fast"),
    "bench: unknown peer": Situation("bench wrn_16_1 --peers keras"),
    "bench: unknown device": Situation("bench wrn_16_1 --device tpu"),
    "bench: device that is missing": Situation("bench wrn_16_1 --device cuda:99"),
    "bench: weights that are not here": Situation(
        "bench wrn_16_1.cifar10 -b 1 --rounds 1 --variants plain --peers none"
    ),
    "bench: weights of another file": Situation(
        "bench wrn_16_1.digits_zoo -b 1 --rounds 1 --variants plain --peers none", manifest("bundled")
    ),
    # train
    "train: unknown architecture": Situation("train wrn_16_l --output {tmp}/out"),
    "train: no output": Situation("train wrn_16_1"),
    "train: no epochs": Situation("train wrn_16_1 --epochs 0 --output {tmp}/out"),
    "train: seed below zero": Situation("train wrn_16_1 --seed -1 --output {tmp}/out"),
    "train: data set without a recipe": Situation("train wrn_16_1 --dataset cifar10 --output {tmp}/out"),
    "train: unknown device": Situation("train wrn_16_1 --device tpu --output {tmp}/out"),
    "train: output that cannot be made": Situation("train wrn_16_1 --output {tmp}/file/below", prepare=_file),
    "train: checkpoint of other settings": Situation(f"{TRAIN} --seed 1", prepare=_copy("training")),
    "train: checkpoint that is cut": Situation(TRAIN, prepare=_copy("training_cut")),
    "train: checkpoint that is altered": Situation(TRAIN, prepare=_copy("training_altered")),
    "train: loss that is no number": Situation(TRAIN, prepare=_copy("training_nan")),
    "train: finished with other settings": Situation(f"{TRAIN} --seed 1", prepare=_copy("finished")),
    "train: weights of another run are there": Situation(TRAIN, prepare=_copy("foreign")),
    "train: disk full": Situation(TRAIN, limit=500_000),
    # publish
    "publish: nothing named": Situation("publish --org lab --dry-run"),
    "publish: weights and all": Situation("publish wrn_16_1.digits --all --org lab --dry-run"),
    "publish: nowhere": Situation("publish wrn_16_1.digits --dry-run"),
    "publish: two places": Situation("publish wrn_16_1.digits --org lab --repo-id a/b --dry-run"),
    "publish: all to one place": Situation("publish --all --repo-id a/b --dry-run"),
    "publish: a dry run that writes": Situation(f"{PUBLISH} --write"),
    "publish: unknown weights": Situation(PUBLISH.replace("wrn_16_1.digits", "resnet21")),
    "publish: a pattern": Situation(PUBLISH.replace("wrn_16_1.digits", "*.digits_zoo")),
    "publish: no name of a repository": Situation(
        "publish wrn_16_1.digits --repo-id a/b/c --dry-run --output {tmp}/made"
    ),
    "publish: records that are missing": Situation(f"{PUBLISH} --records nowhere"),
    "publish: broken record": Situation(f"{PUBLISH} --records {{files}}/record_broken"),
    "publish: license that forbids it": Situation(PUBLISH, manifest("license")),
    "publish: never measured": Situation(PUBLISH, manifest("measured")),
    "publish: weights that are not here": Situation(
        "publish wrn_16_1.digits_zoo --org lab --dry-run --output {tmp}/made", manifest("hub")
    ),
    "publish: a file of the Hub": Situation(
        "publish resnet20_b.cifar10_chenyaofo --org lab --dry-run --output {tmp}/made"
    ),
    "publish: tensors that were not measured": Situation(PUBLISH, manifest("tensors")),
    "publish: bundled file with another hash": Situation(PUBLISH, manifest("bundled")),
    "publish: folder that cannot be made": Situation(PUBLISH.replace("{tmp}/made", "{tmp}/file/below"), prepare=_file),
    "publish: offline": Situation("publish wrn_16_1.digits --org lab"),
    "publish: all, offline": Situation("publish --all --org lab", (MANIFEST,)),
}


# these start a process of their own, as others of the same kind do that are in every run
SECONDS = {
    "convert: another architecture",
    "convert: empty file",
    "convert: tensors of another shape",
    "fetch: cache that cannot be written",
    "fetch: folder of origins has another file",
}


@contextmanager
def largest_file(limit: int | None) -> Iterator[None]:
    """No file may become larger, as on a disk that is full; the test process itself writes none meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", cheap_or_slow(SITUATIONS, SECONDS))
def test_exit_codes(name: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The code, and whether anything was printed as data."""
    situation = SITUATIONS[name]
    (places["tmp"] / "files").symlink_to(places["files"])
    situation.prepare(places["tmp"])
    for variable, value in situation.env:
        monkeypatch.setenv(variable, value.format_map({word: str(path) for word, path in places.items()}))
    with largest_file(situation.limit):
        ran = run(*situation.arguments(places), stdout=situation.stdout)
    found = {"arguments": situation.line.replace(LONG, "<300 letters>"), "code": ran.code, "data": bool(ran.out)}
    same("exit_codes", name, found)
    assert "Traceback" not in ran.err
    assert ran.code == 0 or ran.err or ran.out, "a failure says why"


@pytest.mark.slow
def test_interrupted(tmp_path: Path) -> None:
    """A process of its own, which gets Ctrl-C after its first epoch."""
    with start("train", "wrn_16_1", "--output", tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGINT)
                break
        out, _ = process.communicate(timeout=300)
    found = {"arguments": "train wrn_16_1", "code": process.returncode, "data": bool(out)}
    same("exit_codes", "process: interrupt", found)


def test_a_reader_that_leaves_early() -> None:
    with start("list", "--format", "json") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=300)
    found = {"arguments": "list --format json", "code": process.returncode, "data": False}
    same("exit_codes", "process: reader that leaves early", found)


PROCESSES = ("process: interrupt", "process: reader that leaves early")
