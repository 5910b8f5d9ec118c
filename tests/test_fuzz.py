"""Thousands of damaged files through the command line: refused with one clear message, or read as what they were.

A few hundred in every run, two thousand with `-m slow`; `MUTANT=zips:3` runs one alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fuzz_corpus as corpus
import pytest
from fuzz_corpus import Mutant, Original

from pyramidzoo import cli
from pyramidzoo.catalog.manifest import get_package_manifest_path, load_manifest, read_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError
from pyramidzoo.files import file_hash
from pyramidzoo.weights.cache import cache_paths, write_sidecar

SECONDS = 5  # of work on a damaged file, beside what a good one takes (the start of a process), however busy we are
MEMORY = 256 << 20  # bytes that a mutant may add to what a good file takes
QUICK, SLOW = {"safetensors": 125, "pickles": 10, "zips": 40, "manifests": 125}, 500
SEED = 0

Run = Callable[..., "Ran"]


@dataclasses.dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    seconds: float  # of processors, in this process and its children


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ran:
        began = os.times()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse's own way out
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err, sum(os.times()[:4]) - sum(began[:4]))

    return call


def chosen(kind: str, count: int, seed: int) -> Iterator[Mutant]:
    only = os.environ.get("MUTANT", "")
    for mutant in corpus.mutants(kind, count, seed):
        if not only or only == f"{mutant.kind}:{mutant.number}":
            yield mutant


def peak() -> tuple[int, int]:
    """Most memory that this process, and a child of it, have ever had, in bytes."""
    own, childrens = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * own, 1024 * childrens


def require_refused(ran: Ran, path: Path) -> None:
    """One message, which names the file, in characters that any terminal can show."""
    assert ran.code in (2, 4), ran
    assert ran.out == "" or json.loads(ran.out)["records"] == [], ran  # `evaluate` lists its failures
    said = [line for line in ran.err.splitlines() if not line.startswith("pyramidzoo: NOT the zoo's own manifest")]
    assert said, ran
    assert said[0].startswith("pyramidzoo: "), ran
    assert not any(line.startswith("pyramidzoo: ") for line in said[1:]), ran
    assert path.name in said[0], ran
    assert all(line.isprintable() for line in said), ran
    assert len(ran.err) < 3000, len(ran.err)
    for word in ("Traceback", "internal error", "/temporary/"):
        assert word not in ran.err, ran


def written(original: Original, content: bytes, folder: Path) -> Path:
    path = folder / original.name
    path.write_bytes(content)
    return path


class Bench:
    """A folder in which one file after the other is read, and what the good ones cost."""

    def __init__(self, folder: Path, run: Run, read: Callable[[Original, Path], Ran]) -> None:
        self.folder, self.run, self.read = folder, run, read
        self.good: dict[str, tuple[Any, float]] = {}
        self.memory = 0, 0

    def require_good(self, original: Original, result: Callable[[Ran], Any]) -> Any:
        """What the undamaged file is read as; measured once."""
        if original.name not in self.good:
            ran = self.read(original, written(original, original.content, self.folder))
            assert ran.code == 0, ran
            self.good[original.name] = result(ran), ran.seconds
            self.memory = peak()
        return self.good[original.name][0]

    def require(self, mutant: Mutant, result: Callable[[Ran], Any]) -> bool:
        """Whether it was refused; else it must have been read as its original."""
        wanted = self.require_good(mutant.original, result)
        for old in self.folder.iterdir():
            old.unlink()
        path = written(mutant.original, mutant.content, self.folder)
        ran = self.read(mutant.original, path)
        assert ran.seconds < SECONDS + 2 * self.good[mutant.original.name][1], ran.seconds
        assert all(now < then + MEMORY for now, then in zip(peak(), self.memory, strict=True)), (peak(), self.memory)
        if ran.code == 0:
            assert result(ran) == wanted
            return False
        require_refused(ran, path)
        assert [found.name for found in self.folder.rglob("*")] == [path.name]  # no output, no part of one
        return True


def require_each(mutants: Iterable[Mutant], seed: int, require: Callable[[Mutant], bool]) -> None:
    """All of them, so that one report has all that is wrong; most must have been refused."""
    refused, tried, wrong = 0, 0, []
    for mutant in mutants:
        tried += 1
        try:
            refused += require(mutant)
        except AssertionError as error:
            wrong.append(f"MUTANT={mutant.kind}:{mutant.number} ({mutant}, seed {seed}): {str(error)[:800]}")
    assert not wrong, "\n\n".join([f"{len(wrong)} of {tried}", *wrong])
    assert refused > tried // 2 or "MUTANT" in os.environ


@pytest.fixture
def bench(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Foreign files are converted, those of the zoo evaluated."""
    folder, temporary = tmp_path / "files", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    output = folder / "out.safetensors"

    def read(original: Original, path: Path) -> Ran:
        output.unlink(missing_ok=True)
        if original.layout is None:
            return run("evaluate", path, "--format", "json")
        layout = ["--layout", original.layout, "--arch", original.architecture, "--dataset", "cifar10"]
        ran = run("convert", path, *layout, "--output", output, "--format", "json")
        assert not list(temporary.iterdir())
        return ran

    return Bench(folder, run, read)


def tensors_of(ran: Ran) -> str:
    """The hash of the tensors that a command has read, and for a conversion those that it wrote."""
    content = json.loads(ran.out)
    if isinstance(content, dict):
        return content["records"][0]["tensors_sha256"]
    written = tensors_sha256(read_tensors(Path(content[0]["path"])))
    assert written == content[0]["tensors sha256"]
    return written


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["safetensors", "pickles", "zips"])
def test_checkpoints(kind: str, bench: Bench) -> None:
    require_each(chosen(kind, QUICK[kind], SEED), SEED, functools.partial(bench.require, result=tensors_of))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "pickles", "zips"])
def test_many_checkpoints(kind: str, bench: Bench) -> None:
    require_each(chosen(kind, SLOW, SEED + 1), SEED + 1, functools.partial(bench.require, result=tensors_of))


def require_hash_notices_all(count: int, seed: int, run: Run) -> None:
    """Each as the cached file of an entry: its sha256 is known, so that even other values are refused."""
    entry = load_manifest().find("wrn_16_1.cifar10_ferles")
    assert entry.origin is not None
    assert entry.origin.hash is not None
    path = cache_paths(entry)[0]
    for original in corpus.originals("safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(original.content)
        facts = {"url": entry.origin.url, "origin": entry.origin.hash.value, "sha256": file_hash(path)}
        noted = {"source_sha256": entry.origin.hash.value, "tensors_sha256": entry.tensors_sha256}
        write_sidecar(entry, facts | noted, published=True)
        ran = run("fetch", entry.id)
        assert (ran.code, ran.err) == (0, "")
        damaged = [m.content for m in chosen("safetensors", count, seed) if m.original is original]
        for content in [*damaged, *corpus.other_values(original, count, seed)]:
            path.write_bytes(content)
            ran = run("fetch", entry.id)
            assert ran.code == 4
            require_refused(ran, path)
            assert path.read_bytes() == content  # kept, for whoever wants to look into it
            assert run("verify", entry.id).code == 4


def test_altered_cached_files(run: Run) -> None:
    require_hash_notices_all(QUICK["safetensors"], SEED, run)


@pytest.mark.slow
def test_many_altered_cached_files(run: Run) -> None:
    require_hash_notices_all(SLOW, SEED + 1, run)


def refusal(path: Path, entries: dict[str, WeightsEntry]) -> str:
    """What the strict reading says against a manifest; nothing where it holds just these entries."""
    try:
        assert dict(read_manifest(path).entries) == entries
    except IntegrityError as error:
        return str(error)
    return ""


def require_manifests(count: int, seed: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read strictly, and as the manifest of a command."""
    (original,) = corpus.originals("manifests")
    path = written(original, original.content, bench.folder)
    entries = dict(read_manifest(path).entries)

    def read(original: Original, path: Path) -> Ran:
        monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(path))
        try:
            return bench.run("list", "--weights", "--format", "json")
        finally:
            monkeypatch.delenv("PYRAMIDZOO_MANIFEST")

    def require(mutant: Mutant) -> bool:
        path = written(mutant.original, mutant.content, bench.folder)
        said = refusal(path, entries)
        assert not said or (path.name in said and len(said) < 3000), said
        refused = bench.require(mutant, lambda ran: json.loads(ran.out))
        assert refused == bool(said), (refused, said)
        return refused

    bench.read = read
    require_each(chosen("manifests", count, seed), seed, require)


def test_manifests(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    require_manifests(QUICK["manifests"], SEED, bench, monkeypatch)


@pytest.mark.slow
def test_many_manifests(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    require_manifests(SLOW, SEED + 1, bench, monkeypatch)


def test_the_corpus_is_the_same_each_time() -> None:
    for kind in corpus.KINDS:
        first, again = (list(corpus.mutants(kind, 40, 7)) for _ in range(2))
        assert [m.content for m in first] == [m.content for m in again]
        assert [m.number for m in first] == list(range(40))
        assert all(m.content != m.original.content for m in first)
        assert len({m.content for m in first}) > 36
        assert len({m.operator for m in first}) >= 9
        assert [m.content for m in corpus.mutants(kind, 40, 8)] != [m.content for m in first]
    assert set(corpus.ENTRIES) <= set(json.loads(get_package_manifest_path().read_text(encoding="utf-8"))["weights"])
