"""Finding, verifying and loading weights: nothing is trusted that was not hashed, and nothing wrong is kept."""

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
from pyramidzoo.catalog.manifest import FileHash, Manifest, Origin, WeightsEntry, load_manifest
from pyramidzoo.checkpoints.loading import load_weights
from pyramidzoo.checkpoints.safetensors_file import read_content, read_tensors, write_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import file_hash
from pyramidzoo.weights import cache
from pyramidzoo.weights import fetch as weights

ID = "wrn_16_1.cifar10_ferles"

pytestmark = pytest.mark.usefixtures("quick_unpickle")


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state("wrn_16_1")


@pytest.fixture
def origin_file(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    folder = tmp_path / "origins" / "deep"
    folder.mkdir(parents=True)
    path = folder / "wrn-16-1-seed-0-dict.pth"
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", state), path)
    return path


@pytest.fixture
def entry(origin_file: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    """An entry of the manifest, pinned to a checkpoint made here and offered at an address that nobody serves."""
    origin = Origin(
        url=f"http://127.0.0.1:9/{origin_file.name}",
        format="torch",
        bytes=origin_file.stat().st_size,
        hash=FileHash("sha256", "file", file_hash(origin_file)),
        layout="ferles",
    )
    changed = dataclasses.replace(load_manifest().find(ID), origin=origin, tensors_sha256=None, results=())
    replace_entry(changed, monkeypatch)
    return changed


def replace_entry(entry: WeightsEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest({**load_manifest().entries, entry.id: entry})
    monkeypatch.setattr(factory, "load_manifest", lambda: manifest)


@pytest.fixture
def offered(entry: WeightsEntry, origin_file: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origin_file.parents[1]))
    return entry


@pytest.fixture
def server(origin_file: Path) -> Iterator[str]:
    """A loopback server of the checkpoint's folder."""

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


def at(entry: WeightsEntry, url: str) -> WeightsEntry:
    assert entry.origin is not None
    return dataclasses.replace(entry, origin=dataclasses.replace(entry.origin, url=url))


def cached_names() -> list[str]:
    """Files in the cache, but for the locks: those stay, empty."""
    folder = cache.cache_dir()
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in found if not name.startswith("locks/")]


def test_origins_are_found_by_content_under_any_name(offered: WeightsEntry, origin_file: Path) -> None:
    origin_file.rename(origin_file.with_name("renamed.bin"))
    located = weights.fetch(offered)
    assert (located.place, located.sha256) == ("origins", file_hash(located.path))
    assert weights.fetch(offered).place == "cache"
    assert cached_names() == [f"weights/{ID}.json", f"weights/{ID}.safetensors"]


def test_the_loaded_model_is_the_published_one(offered: WeightsEntry, state: dict[str, Tensor]) -> None:
    model = pyramidzoo.create_model("wrn_16_1", weights="cifar10_ferles")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert model.preprocessing == offered.preprocessing
    for same in ("cifar10", ID, "wrn_16_1.cifar10"):
        assert torch.equal(pyramidzoo.create_model("wrn_16_1", weights=same).fc.weight, model.fc.weight)
    assert torch.equal(pyramidzoo.wrn_16_1(pretrained=True).fc.weight, model.fc.weight)


def test_another_number_of_classes_drops_exactly_the_classifier(
    offered: WeightsEntry, state: dict[str, Tensor]
) -> None:
    model = pyramidzoo.create_model("wrn_16_1", pretrained=True, num_classes=37).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 37)
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu"
        assert name.startswith("fc.") or torch.equal(tensor, state[name])
    assert isinstance(pyramidzoo.create_model("wrn_16_1", pretrained=True, num_classes=0).fc, nn.Identity)


def test_requests_that_make_no_sense(offered: WeightsEntry) -> None:
    with pytest.raises(UsageError, match="give one of them"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True, weights="cifar10")
    with pytest.raises(UsageError, match="wrn_16_1 has no weights tagged 'cifar100'; it has cifar10_ferles"):
        pyramidzoo.create_model("wrn_16_1", weights="cifar100")
    with pytest.raises(UsageError, match="are weights of wrn_16_1, not of wrn_40_1"):
        pyramidzoo.create_model("wrn_40_1", weights=ID)
    with pytest.raises(UsageError, match=r"no weights are called 'wrn_16_1\.cifar11'; did you mean"):
        pyramidzoo.create_model("wrn_16_1", weights="wrn_16_1.cifar11")
    with pytest.raises(UsageError, match=r'load them with create_model\("wrn_16_1", weights="cifar10_ferles"\)'):
        pyramidzoo.create_model(ID)
    with pytest.raises(UsageError, match="read images of 3 channels, not in_chans=1"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True, in_chans=1)
    with pytest.raises(UsageError, match="wrn_40_10 has no weights in the manifest"):
        pyramidzoo.create_model("wrn_40_10", pretrained=True)
    assert not cache.cache_dir().exists()


def test_a_cached_file_that_was_altered_is_refused_until_made_anew(offered: WeightsEntry) -> None:
    path = weights.fetch(offered).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"is altered: .*`pyramidzoo fetch --force {ID}` makes it anew"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True)
    assert weights.verify(offered).state == "altered"
    assert weights.fetch(offered, force=True).place == "origins"
    assert weights.verify(offered).state == "good"


@pytest.mark.parametrize("damage", ["missing", "garbage", "other origin"])
def test_a_file_that_nothing_vouches_for_is_made_anew(offered: WeightsEntry, damage: str) -> None:
    path, sidecar = weights.fetch(offered).path, cache.cache_paths(offered)[1]
    if damage == "missing":
        sidecar.unlink()
    elif damage == "garbage":
        sidecar.write_text("{")
    else:
        sidecar.write_text(json.dumps({"origin": "0" * 64, "sha256": file_hash(path)}))
    assert weights.verify(offered).state == "altered"
    assert weights.fetch(offered).place == "origins"
    assert weights.fetch(offered).place == "cache"


def test_an_altered_origin_is_named(offered: WeightsEntry, origin_file: Path) -> None:
    content = bytearray(origin_file.read_bytes())
    content[len(content) // 2] ^= 1
    origin_file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"wrn-16-1-seed-0-dict\.pth: the name but not the content"):
        weights.fetch(offered)
    assert cached_names() == []


def test_a_folder_that_is_not_there_hides_no_other(
    offered: WeightsEntry, origin_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", f"/nonexistent:{origin_file.parent}")
    assert weights.fetch(offered).place == "origins"


def test_a_file_replaced_between_hash_and_load_is_noticed(
    offered: WeightsEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = weights.fetch

    def replaced(entry: WeightsEntry) -> weights.WeightsFile:
        located = fetched(entry)
        write_tensors(located.path, random_state("wrn_16_1", seed=5), {})
        return located

    monkeypatch.setattr(factory, "fetch", replaced)
    with pytest.raises(IntegrityError, match=r"is altered: .*it was replaced while it was being loaded"):
        pyramidzoo.create_model("wrn_16_1", pretrained=True)


def test_a_file_altered_together_with_its_sidecar(offered: WeightsEntry) -> None:
    known = dataclasses.replace(offered, tensors_sha256=weights_hash(weights.fetch(offered).path))
    path, sidecar = cache.cache_paths(known)
    write_tensors(path, random_state("wrn_16_1", seed=5), {})
    noted = json.loads(sidecar.read_text()) | {"sha256": file_hash(path), "tensors_sha256": weights_hash(path)}
    sidecar.write_text(json.dumps(noted))
    assert weights.fetch(known).place == "origins"


def weights_hash(path: Path) -> str:
    return tensors_sha256(read_tensors(path))


def test_a_truncated_origin_is_named(offered: WeightsEntry, origin_file: Path) -> None:
    origin_file.write_bytes(origin_file.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="the name but not the content"):
        weights.fetch(offered)


def test_every_place_tried_is_listed(entry: WeightsEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "empty"))
    with pytest.raises(UnavailableError, match=r"(?s)cannot get .*not in PYRAMIDZOO_ORIGINS.*offline, as HF_HUB_OFFL"):
        weights.fetch(entry)
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "nowhere"))
    with pytest.raises(UnavailableError, match="nowhere, which is not a folder"):
        weights.fetch(entry)


@pytest.mark.usefixtures("online")
def test_download_from_the_origin(entry: WeightsEntry, server: str) -> None:
    assert weights.fetch(at(entry, server)).place == "origin"
    assert cached_names() == [f"weights/{ID}.json", f"weights/{ID}.safetensors"]


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("damage", ["same size", "shorter", "longer"])
def test_a_download_with_other_content_leaves_nothing(
    entry: WeightsEntry, server: str, origin_file: Path, damage: str
) -> None:
    content = origin_file.read_bytes()
    changed = {"same size": content[:-1] + b"x", "shorter": content[:-9], "longer": content + b"x"}[damage]
    origin_file.write_bytes(changed)
    with pytest.raises(IntegrityError, match="sends more than" if damage == "longer" else "bytes with sha256"):
        weights.fetch(at(entry, server))
    assert cached_names() == []


@pytest.mark.usefixtures("online")
def test_servers_that_do_not_answer(entry: WeightsEntry, server: str) -> None:
    with pytest.raises(UnavailableError, match=r"404 "):
        weights.fetch(at(entry, server + ".gone"))
    with pytest.raises(UnavailableError, match="Connection refused"):
        weights.fetch(entry)
    assert cached_names() == []


def test_a_conversion_must_give_the_tensors_of_the_manifest(offered: WeightsEntry) -> None:
    other = dataclasses.replace(offered, tensors_sha256="0" * 64)
    with pytest.raises(IntegrityError, match="the manifest says 0000"):
        weights.fetch(other)
    assert cached_names() == []


def test_linked_folders_are_searched(entry: WeightsEntry, origin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = origin_file.parents[2] / "links"
    links.mkdir()
    (links / "to").symlink_to(origin_file.parent)
    (origin_file.parent / "round").symlink_to(links)  # a circle ends
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(links))
    assert weights.fetch(entry).place == "origins"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PYRAMIDZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UnavailableError, match="name one for the cache in PYRAMIDZOO_CACHE"):
        cache.cache_dir()


def test_pretrained_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match="pretrained is True or False, not 'digits'"):
        pyramidzoo.create_model("wrn_16_1", pretrained="digits")


def test_a_cache_that_cannot_be_written(offered: WeightsEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotWritableError, match=r"cannot make the folder .*: a file is in its way; name another"):
        weights.fetch(offered)


def test_verify_and_unknown_files(offered: WeightsEntry) -> None:
    assert weights.verify(offered).state == "missing"
    path = weights.fetch(offered).path
    stranger = path.with_name("stranger.safetensors")
    stranger.write_bytes(b"x")
    remnant, running = path.with_name(".killed.part"), path.with_name(".running.part")
    remnant.write_bytes(b"x")
    running.write_bytes(b"x")
    os.utime(remnant, (0, 0))
    assert [state.path for state in weights.unknown_files(load_manifest())] == [remnant, stranger]


def test_files_of_other_programs_load_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "plain.safetensors"
    write_tensors(path, state, {})
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    assert torch.equal(model.fc.weight, state["fc.weight"])
    assert model.preprocessing is None
    with pytest.raises(IntegrityError, match=r"does not fit: missing: .*; is it another architecture"):
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


def test_training_does_not_touch_the_cached_file(offered: WeightsEntry) -> None:
    path = weights.fetch(offered).path
    before = file_hash(path)
    model = pyramidzoo.create_model("wrn_16_1", pretrained=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert file_hash(path) == before
