"""The commands refuse thousands of damaged files with one clear message, or read them as the undamaged file.

A run with `-m fuzz` tries a few hundred files, a run with `-m slow` two thousand. With the environment variable
`MUTANT=zips:3`, only that file is tried.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fuzz_corpus as corpus
import pytest
from command_line import CommandResult, RunCommand
from fuzz_corpus import Mutant, Original

from pyramidzoo.catalog.manifest import get_package_manifest_path, load_manifest, read_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError
from pyramidzoo.files import file_hash
from pyramidzoo.weights.cache import cache_paths, write_sidecar

# Seconds of work that a damaged file may take beyond twice the time of the good one. These are seconds of processors,
# so that a busy machine does not matter. The start of a process takes most of the time of a good file.
SECONDS = 5
MEMORY = 256 << 20  # bytes that a damaged file may need in addition to the good one
QUICK_COUNTS = {"safetensors": 125, "pickles": 10, "zips": 40, "manifests": 125}  # how many files of each kind
SLOW_COUNT = 500
QUICK_SEED, SLOW_SEED = 0, 1


@dataclasses.dataclass(frozen=True)
class TimedResult(CommandResult):
    """How a command ended, what it printed, and the seconds of processors in this process and its children."""

    seconds: float


RunTimed = Callable[..., TimedResult]


@pytest.fixture
def run_timed(run_command: RunCommand) -> RunTimed:
    """A function that runs a command and measures its time."""

    def run(*arguments: object) -> TimedResult:
        start = os.times()
        result = run_command(*arguments)
        seconds = sum(os.times()[:4]) - sum(start[:4])
        return TimedResult(result.code, result.out, result.err, seconds)

    return run


def make_selected_mutants(kind: str, count: int, seed: int) -> Iterator[Mutant]:
    """Make the damaged files of a kind, or only the one that the environment variable MUTANT names."""
    selected = os.environ.get("MUTANT", "")
    for mutant in corpus.make_mutants(kind, count, seed):
        if not selected or selected == f"{mutant.kind}:{mutant.number}":
            yield mutant


def measure_peak_memory() -> tuple[int, int]:
    """Return the most memory in bytes that this process has ever had, and the most that one of its children had."""
    own, of_children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * own, 1024 * of_children


def require_refused(result: CommandResult, path: Path) -> None:
    """Require that a command failed with one message that names the file, in characters that any terminal shows."""
    assert result.code in (2, 4), result
    assert result.out == "" or json.loads(result.out)["records"] == [], result  # `evaluate` prints its records
    lines = [line for line in result.err.splitlines() if not line.startswith("pyramidzoo: NOT the zoo's own manifest")]
    assert lines, result
    assert lines[0].startswith("pyramidzoo: "), result
    assert not any(line.startswith("pyramidzoo: ") for line in lines[1:]), result
    assert path.name in lines[0], result
    assert all(line.isprintable() for line in lines), result
    assert len(result.err) < 3000, len(result.err)
    for word in ("Traceback", "internal error", "/temporary/"):
        assert word not in result.err, result


def write_file(original: Original, content: bytes, folder: Path) -> Path:
    path = folder / original.name
    path.write_bytes(content)
    return path


@dataclasses.dataclass
class MutantCheck:
    """Checks how a command reads damaged files, and compares with the undamaged file.

    Attributes:
        folder: Each file is written there under the name of its original.
        read: A function that runs the command on a file.
        get_content: A function that returns from the result of a command what the file holds.
        originals: For the name of each original that was read: its content, and the seconds that it took.
        memory: The peak memory after the latest original.
    """

    folder: Path
    read: Callable[[Original, Path], TimedResult]
    get_content: Callable[[CommandResult], Any]
    originals: dict[str, tuple[Any, float]] = dataclasses.field(default_factory=dict)
    memory: tuple[int, int] = (0, 0)

    def read_original(self, original: Original) -> tuple[Any, float]:
        """Read the undamaged file if it was not read before. Return its content and the seconds that it took."""
        if original.name not in self.originals:
            result = self.read(original, write_file(original, original.content, self.folder))
            assert result.code == 0, result
            self.originals[original.name] = self.get_content(result), result.seconds
            self.memory = measure_peak_memory()
        return self.originals[original.name]

    def is_refused(self, mutant: Mutant) -> bool:
        """Return whether a damaged file is refused. If it is not, it must be read as its original."""
        original_content, original_seconds = self.read_original(mutant.original)
        for old_file in self.folder.iterdir():
            old_file.unlink()
        path = write_file(mutant.original, mutant.content, self.folder)
        result = self.read(mutant.original, path)
        assert result.seconds < SECONDS + 2 * original_seconds, result.seconds
        memory = measure_peak_memory()
        assert all(now < before + MEMORY for now, before in zip(memory, self.memory, strict=True)), (
            memory,
            self.memory,
        )
        if result.code == 0:
            assert self.get_content(result) == original_content
            return False
        require_refused(result, path)
        assert [left.name for left in self.folder.rglob("*")] == [path.name]  # no output, and no part of an output
        return True


def check_all(mutants: Iterable[Mutant], seed: int, is_refused: Callable[[Mutant], bool]) -> None:
    """Check all damaged files, and report all failures together. More than half must have been refused."""
    refused, checked, failures = 0, 0, []
    for mutant in mutants:
        checked += 1
        try:
            refused += is_refused(mutant)
        except AssertionError as error:
            failures.append(f"MUTANT={mutant.kind}:{mutant.number} ({mutant}, seed {seed}): {str(error)[:800]}")
    assert not failures, "\n\n".join([f"{len(failures)} of {checked}", *failures])
    assert refused > checked // 2 or "MUTANT" in os.environ


@pytest.fixture
def checkpoint_check(tmp_path: Path, run_timed: RunTimed, monkeypatch: pytest.MonkeyPatch) -> MutantCheck:
    """A check that converts foreign files and evaluates files of the zoo."""
    folder, temporary = tmp_path / "files", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    output = folder / "out.safetensors"

    def read(original: Original, path: Path) -> TimedResult:
        output.unlink(missing_ok=True)
        if original.layout is None:
            return run_timed("evaluate", path, "--format", "json")
        layout = ["--layout", original.layout, "--arch", original.architecture, "--dataset", "cifar10"]
        result = run_timed("convert", path, *layout, "--output", output, "--format", "json")
        assert not list(temporary.iterdir())
        return result

    return MutantCheck(folder, read, get_tensors_hash)


def get_tensors_hash(result: CommandResult) -> str:
    """Return the hash of the tensors that a command has read. A conversion must have written the same tensors."""
    printed = json.loads(result.out)
    if isinstance(printed, dict):
        return printed["records"][0]["tensors_sha256"]
    written_hash = tensors_sha256(read_tensors(Path(printed[0]["path"])))
    assert written_hash == printed[0]["tensors sha256"]
    return written_hash


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["safetensors", "pickles", "zips"])
def test_damaged_checkpoints_are_refused(kind: str, checkpoint_check: MutantCheck) -> None:
    mutants = make_selected_mutants(kind, QUICK_COUNTS[kind], QUICK_SEED)
    check_all(mutants, QUICK_SEED, checkpoint_check.is_refused)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "pickles", "zips"])
def test_many_damaged_checkpoints_are_refused(kind: str, checkpoint_check: MutantCheck) -> None:
    mutants = make_selected_mutants(kind, SLOW_COUNT, SLOW_SEED)
    check_all(mutants, SLOW_SEED, checkpoint_check.is_refused)


def require_cached_files_are_refused(count: int, seed: int, run_command: RunCommand) -> None:
    """Put each damaged file in the place of an entry's cached file.

    The cache knows the sha256 of the file, so even a file with other values of weights must be refused.
    """
    entry = load_manifest().find("wrn_16_1.cifar10_ferles")
    assert entry.origin is not None
    assert entry.origin.hash is not None
    path = cache_paths(entry)[0]
    for original in corpus.make_originals("safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(original.content)
        hashes = {
            "url": entry.origin.url,
            "origin": entry.origin.hash.value,
            "sha256": file_hash(path),
            "source_sha256": entry.origin.hash.value,
            "tensors_sha256": entry.tensors_sha256,
        }
        write_sidecar(entry, hashes, has_published_hash=True)
        result = run_command("fetch", entry.id)
        assert (result.code, result.err) == (0, "")
        mutants = make_selected_mutants("safetensors", count, seed)
        damaged = [mutant.content for mutant in mutants if mutant.original is original]
        for content in [*damaged, *corpus.change_values(original, count, seed)]:
            path.write_bytes(content)
            result = run_command("fetch", entry.id)
            assert result.code == 4
            require_refused(result, path)
            assert path.read_bytes() == content  # The file stays, so that a user can examine it.
            assert run_command("verify", entry.id).code == 4


def test_damaged_cached_files_are_refused(run_command: RunCommand) -> None:
    require_cached_files_are_refused(QUICK_COUNTS["safetensors"], QUICK_SEED, run_command)


@pytest.mark.slow
def test_many_damaged_cached_files_are_refused(run_command: RunCommand) -> None:
    require_cached_files_are_refused(SLOW_COUNT, SLOW_SEED, run_command)


def read_strictly(path: Path, entries: dict[str, WeightsEntry]) -> str:
    """Read a manifest, which must hold exactly these entries. Return the error message, or "" if there is no error."""
    try:
        assert dict(read_manifest(path).entries) == entries
    except IntegrityError as error:
        return str(error)
    return ""


@pytest.fixture
def manifest_check(tmp_path: Path, run_timed: RunTimed, monkeypatch: pytest.MonkeyPatch) -> MutantCheck:
    """A check that lists the weights of a manifest."""
    folder = tmp_path / "files"
    folder.mkdir()

    def read(original: Original, path: Path) -> TimedResult:
        with monkeypatch.context() as context:
            context.setenv("PYRAMIDZOO_MANIFEST", str(path))
            return run_timed("list", "--weights", "--format", "json")

    return MutantCheck(folder, read, lambda result: json.loads(result.out))


def require_manifests_are_refused(count: int, seed: int, manifest_check: MutantCheck) -> None:
    """Read each damaged manifest with `read_manifest`, and with a command. Both must refuse the same manifests."""
    (original,) = corpus.make_originals("manifests")
    entries = dict(read_manifest(write_file(original, original.content, manifest_check.folder)).entries)

    def is_refused(mutant: Mutant) -> bool:
        path = write_file(mutant.original, mutant.content, manifest_check.folder)
        message = read_strictly(path, entries)
        assert not message or (path.name in message and len(message) < 3000), message
        refused = manifest_check.is_refused(mutant)
        assert refused == bool(message), (refused, message)
        return refused

    check_all(make_selected_mutants("manifests", count, seed), seed, is_refused)


def test_damaged_manifests_are_refused(manifest_check: MutantCheck) -> None:
    require_manifests_are_refused(QUICK_COUNTS["manifests"], QUICK_SEED, manifest_check)


@pytest.mark.slow
def test_many_damaged_manifests_are_refused(manifest_check: MutantCheck) -> None:
    require_manifests_are_refused(SLOW_COUNT, SLOW_SEED, manifest_check)


def test_the_same_seed_makes_the_same_damaged_files() -> None:
    for kind in corpus.KINDS:
        first, again = (list(corpus.make_mutants(kind, 40, 7)) for _ in range(2))
        assert [mutant.content for mutant in first] == [mutant.content for mutant in again]
        assert [mutant.number for mutant in first] == list(range(40))
        assert all(mutant.content != mutant.original.content for mutant in first)
        assert len({mutant.content for mutant in first}) > 36
        assert len({mutant.operator for mutant in first}) >= 9
        other_seed = list(corpus.make_mutants(kind, 40, 8))
        assert [mutant.content for mutant in other_seed] != [mutant.content for mutant in first]


def test_the_entries_of_the_corpus_are_in_the_manifest() -> None:
    assert set(corpus.ENTRIES) <= set(json.loads(get_package_manifest_path().read_text(encoding="utf-8"))["weights"])
