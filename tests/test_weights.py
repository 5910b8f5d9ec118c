"""Fetching, verifying and loading weights. No file is trusted before it was hashed, and no wrong file is kept."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import foreign_checkpoint, random_state
from torch import Tensor, nn

import pyramidzoo
from pyramidzoo import factory
from pyramidzoo.catalog.manifest import Manifest, load_manifest
from pyramidzoo.catalog.weights_entry import FileHash, Origin, WeightsEntry
from pyramidzoo.checkpoints.loading import load_weights
from pyramidzoo.checkpoints.safetensors_file import read_content, read_tensors, write_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import file_hash
from pyramidzoo.weights import cache
from pyramidzoo.weights.fetch import WeightsFile, fetch
from pyramidzoo.weights.verify import find_unknown_files, verify

ID = "wrn_16_1.cifar10_ferles"

pytestmark = pytest.mark.usefixtures("quick_unpickle")


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state("wrn_16_1")


@pytest.fixture
def origin_file(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """A checkpoint with random weights, as the authors of the layout "ferles" would have saved it."""
    folder = tmp_path / "origins" / "deep"
    folder.mkdir(parents=True)
    path = folder / "wrn-16-1-seed-0-dict.pth"
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", state), path)
    return path


@pytest.fixture
def entry(origin_file: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    """An entry of the manifest with the hash of `origin_file`, at an address where no server answers."""
    origin = Origin(
        url=f"http://127.0.0.1:9/{origin_file.name}",
        format="torch",
        bytes=origin_file.stat().st_size,
        hash=FileHash("sha256", "file", file_hash(origin_file)),
        layout="ferles",
    )
    changed_entry = dataclasses.replace(load_manifest().find(ID), origin=origin, tensors_sha256=None, results=())
    use_entry(changed_entry, monkeypatch)
    return changed_entry


def use_entry(entry: WeightsEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `create_model` read a manifest with this entry."""
    manifest = Manifest({**load_manifest().entries, entry.id: entry})
    monkeypatch.setattr(factory, "load_manifest", lambda: manifest)


@pytest.fixture
def entry_in_folder(entry: WeightsEntry, origin_file: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    """The same entry, whose file is in a folder of PYRAMIDZOO_ORIGINS."""
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origin_file.parents[1]))
    return entry


@pytest.fixture
def server_url(origin_file: Path) -> Iterator[str]:
    """The address of the checkpoint on a server of this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(origin_file.parent))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/{origin_file.name}"
        served.shutdown()
        thread.join()


def with_origin_url(entry: WeightsEntry, url: str) -> WeightsEntry:
    """The entry with another address of its origin."""
    assert entry.origin is not None
    return dataclasses.replace(entry, origin=dataclasses.replace(entry.origin, url=url))


def list_cached_files() -> list[str]:
    """The files in the cache, without the locks, which are empty and stay."""
    folder = cache.cache_dir()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in names if not name.startswith("locks/")]


def test_origins_are_found_by_content_under_any_name(entry_in_folder: WeightsEntry, origin_file: Path) -> None:
    origin_file.rename(origin_file.with_name("renamed.bin"))
    fetched = fetch(entry_in_folder)
    assert (fetched.source, fetched.sha256) == ("origins", file_hash(fetched.path))
    assert fetch(entry_in_folder).source == "cache"
    assert list_cached_files() == [f"weights/{ID}.json", f"weights/{ID}.safetensors"]


def test_the_loaded_model_is_the_published_one(entry_in_folder: WeightsEntry, state: dict[str, Tensor]) -> None:
    model = pyramidzoo.create_model("wrn_16_1", weights="cifar10_ferles")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert model.preprocessing == entry_in_folder.preprocessing
    head = model.get_parameter("fc.weight")
    for same in ("cifar10", ID, "wrn_16_1.cifar10"):
        other = pyramidzoo.create_model("wrn_16_1", weights=same)
        assert torch.equal(other.get_parameter("fc.weight"), head)
    assert torch.equal(pyramidzoo.wrn_16_1(pretrained=True).get_parameter("fc.weight"), head)


def test_another_number_of_classes_drops_exactly_the_classifier(
    entry_in_folder: WeightsEntry, state: dict[str, Tensor]
) -> None:
    model = pyramidzoo.create_model("wrn_16_1", pretrained=True, num_classes=37).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 37)
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu"
        assert name.startswith("fc.") or torch.equal(tensor, state[name])
    assert isinstance(pyramidzoo.create_model("wrn_16_1", pretrained=True, num_classes=0).fc, nn.Identity)


def test_requests_that_make_no_sense(entry_in_folder: WeightsEntry) -> None:
    with pytest.raises(UsageError, match="give only one of them"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True, weights="cifar10")
    with pytest.raises(UsageError, match=r"no weights tagged 'cifar100'.*cifar10_ferles"):
        pyramidzoo.create_model("wrn_16_1", weights="cifar100")
    with pytest.raises(UsageError, match="wrn_16_1, not of wrn_40_1"):
        pyramidzoo.create_model("wrn_40_1", weights=ID)
    with pytest.raises(UsageError, match=r"wrn_16_1\.cifar11.*did you mean"):
        pyramidzoo.create_model("wrn_16_1", weights="wrn_16_1.cifar11")
    with pytest.raises(UsageError, match=r'create_model\("wrn_16_1", weights="cifar10_ferles"\)'):
        pyramidzoo.create_model(ID)
    with pytest.raises(UsageError, match=r"3 channels.*in_chans=1"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True, in_chans=1)
    with pytest.raises(UsageError, match="wrn_40_10 has no weights"):
        pyramidzoo.create_model("wrn_40_10", pretrained=True)
    assert not cache.cache_dir().exists()


def test_a_cached_file_that_was_altered_is_refused_until_made_anew(entry_in_folder: WeightsEntry) -> None:
    path = fetch(entry_in_folder).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"altered.*`pyramidzoo fetch --force {ID}`"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True)
    assert verify(entry_in_folder).state == "altered"
    assert fetch(entry_in_folder, force=True).source == "origins"
    assert verify(entry_in_folder).state == "good"


@pytest.mark.parametrize("damage", ["missing", "garbage", "other origin"])
def test_a_file_that_nothing_vouches_for_is_made_anew(entry_in_folder: WeightsEntry, damage: str) -> None:
    path = fetch(entry_in_folder).path
    sidecar = cache.cache_paths(entry_in_folder)[1]
    if damage == "missing":
        sidecar.unlink()
    elif damage == "garbage":
        sidecar.write_text("{")
    else:
        sidecar.write_text(json.dumps({"origin": "0" * 64, "sha256": file_hash(path)}))
    assert verify(entry_in_folder).state == "altered"
    assert fetch(entry_in_folder).source == "origins"
    assert fetch(entry_in_folder).source == "cache"


def test_an_altered_origin_is_named(entry_in_folder: WeightsEntry, origin_file: Path) -> None:
    content = bytearray(origin_file.read_bytes())
    content[len(content) // 2] ^= 1
    origin_file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"wrn-16-1-seed-0-dict\.pth: the name is that of"):
        fetch(entry_in_folder)
    assert list_cached_files() == []


def test_a_folder_that_is_not_there_hides_no_other(
    entry_in_folder: WeightsEntry, origin_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", f"/nonexistent:{origin_file.parent}")
    assert fetch(entry_in_folder).source == "origins"


def test_a_file_replaced_between_hash_and_load_is_noticed(
    entry_in_folder: WeightsEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_and_replace(entry: WeightsEntry) -> WeightsFile:
        fetched = fetch(entry)
        write_tensors(fetched.path, random_state("wrn_16_1", seed=5), {})
        return fetched

    monkeypatch.setattr(factory, "fetch", fetch_and_replace)
    with pytest.raises(IntegrityError, match=r"altered.*replaced while"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True)


def hash_tensors(path: Path) -> str:
    return tensors_sha256(read_tensors(path))


def test_a_file_altered_together_with_its_sidecar_is_fetched_again(entry_in_folder: WeightsEntry) -> None:
    right_hash = hash_tensors(fetch(entry_in_folder).path)
    entry = dataclasses.replace(entry_in_folder, tensors_sha256=right_hash)
    path, sidecar = cache.cache_paths(entry)
    write_tensors(path, random_state("wrn_16_1", seed=5), {})
    altered = json.loads(sidecar.read_text()) | {"sha256": file_hash(path), "tensors_sha256": hash_tensors(path)}
    sidecar.write_text(json.dumps(altered))
    assert fetch(entry).source == "origins"


def test_a_truncated_origin_is_named(entry_in_folder: WeightsEntry, origin_file: Path) -> None:
    origin_file.write_bytes(origin_file.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="but the content is not"):
        fetch(entry_in_folder)


def test_every_place_tried_is_listed(entry: WeightsEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "empty"))
    with pytest.raises(UnavailableError, match=r"(?s)cannot get.*PYRAMIDZOO_ORIGINS.*HF_HUB_OFFLINE"):
        fetch(entry)
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "nowhere"))
    with pytest.raises(UnavailableError, match=r"nowhere.*not a folder"):
        fetch(entry)


@pytest.mark.usefixtures("online")
def test_download_from_the_origin(entry: WeightsEntry, server_url: str) -> None:
    assert fetch(with_origin_url(entry, server_url)).source == "origin"
    assert list_cached_files() == [f"weights/{ID}.json", f"weights/{ID}.safetensors"]


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("damage", "message"),
    [("same size", "bytes with sha256"), ("shorter", "bytes with sha256"), ("longer", "more than [0-9]+ bytes")],
)
def test_a_download_with_other_content_leaves_nothing(
    entry: WeightsEntry, server_url: str, origin_file: Path, damage: str, message: str
) -> None:
    content = origin_file.read_bytes()
    changed = {"same size": content[:-1] + b"x", "shorter": content[:-9], "longer": content + b"x"}[damage]
    origin_file.write_bytes(changed)
    with pytest.raises(IntegrityError, match=message):
        fetch(with_origin_url(entry, server_url))
    assert list_cached_files() == []


@pytest.mark.usefixtures("online")
def test_servers_that_do_not_answer(entry: WeightsEntry, server_url: str) -> None:
    with pytest.raises(UnavailableError, match=r"404 "):
        fetch(with_origin_url(entry, server_url + ".gone"))
    with pytest.raises(UnavailableError, match="Connection refused"):
        fetch(entry)
    assert list_cached_files() == []


def test_a_conversion_must_give_the_tensors_of_the_manifest(entry_in_folder: WeightsEntry) -> None:
    entry_of_other_tensors = dataclasses.replace(entry_in_folder, tensors_sha256="0" * 64)
    with pytest.raises(IntegrityError, match=r"manifest.*0000"):
        fetch(entry_of_other_tensors)
    assert list_cached_files() == []


def test_linked_folders_are_searched(entry: WeightsEntry, origin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = origin_file.parents[2] / "links"
    links.mkdir()
    (links / "to").symlink_to(origin_file.parent)
    (origin_file.parent / "round").symlink_to(links)  # a circle, in which the search must end
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(links))
    assert fetch(entry).source == "origins"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PYRAMIDZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", raise_no_home)
    with pytest.raises(UnavailableError, match=r"no home folder.*PYRAMIDZOO_CACHE"):
        cache.cache_dir()


def test_pretrained_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match=r"pretrained.*True or False.*'digits'"):
        pyramidzoo.create_model("wrn_16_1", pretrained="digits")  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written(
    entry_in_folder: WeightsEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotWritableError, match=r"cannot make the folder.*a file has the same path"):
        fetch(entry_in_folder)


def test_verify_and_unknown_files(entry_in_folder: WeightsEntry) -> None:
    assert verify(entry_in_folder).state == "missing"
    path = fetch(entry_in_folder).path
    of_no_entry = path.with_name("stranger.safetensors")
    of_killed_process, of_running_process = path.with_name(".killed.part"), path.with_name(".running.part")
    for file in (of_no_entry, of_killed_process, of_running_process):
        file.write_bytes(b"x")
    os.utime(of_killed_process, (0, 0))
    unknown = find_unknown_files(load_manifest())
    assert [status.path for status in unknown] == [of_killed_process, of_no_entry]


def test_files_of_other_programs_load_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "plain.safetensors"
    write_tensors(path, state, {})
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    assert torch.equal(model.get_parameter("fc.weight"), state["fc.weight"])
    assert model.preprocessing is None
    with pytest.raises(IntegrityError, match=r"does not fit.*missing.*another architecture"):
        pyramidzoo.create_model("wrn_40_1", weights=str(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"missing: layer1\.0\.conv1\.weight"),
        ({"extra": torch.zeros(1)}, "unexpected: extra"),
        ({"conv1.weight": torch.zeros(16, 3, 1, 1)}, r"different: conv1\.weight is F32\[16x3x1x1\]"),
        ({"norm.bias": torch.full((64,), float("inf"))}, r"NaN or infinite values in norm\.bias"),
        ({"fc.weight": None}, "has no classifier"),
    ],
)
def test_files_that_are_almost_right(
    damage: dict[str, Tensor | None], message: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "damaged.safetensors"
    changed = {name: tensor for name, tensor in {**state, **damage}.items() if tensor is not None}
    write_tensors(path, changed, {})
    with pytest.raises(IntegrityError, match=message):
        pyramidzoo.create_model("wrn_16_1", weights=path)


def test_paths_that_are_no_files_of_the_zoo(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="there is no file"):
        pyramidzoo.create_model("wrn_16_1", weights=tmp_path / "nothing.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>")
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        pyramidzoo.create_model("wrn_16_1", weights=tmp_path / "page.safetensors")
    (tmp_path / "old.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"`pyramidzoo convert .*old\.pth"):
        pyramidzoo.create_model("wrn_16_1", weights=str(tmp_path / "old.pth"))


def test_a_failed_load_leaves_the_model_alone(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "damaged.safetensors"
    write_tensors(path, {**state, "norm.bias": torch.zeros(65)}, {})
    model = pyramidzoo.create_model("wrn_16_1")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(IntegrityError):
        load_weights(model, read_content(path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_training_does_not_touch_the_cached_file(entry_in_folder: WeightsEntry) -> None:
    path = fetch(entry_in_folder).path
    before = file_hash(path)
    model = pyramidzoo.create_model("wrn_16_1", pretrained=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert file_hash(path) == before
