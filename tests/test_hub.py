"""The checkout as a torch.hub repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import foreign_checkpoint, random_state

import hubconf
from pyramidzoo.catalog.architectures import architectures

ROOT = str(Path(__file__).resolve().parents[1])


def test_every_architecture_is_an_entry_point() -> None:
    found = {name: value for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert sorted(found) == sorted(architectures())
    assert "bottleneck units, additive, alpha 270" in str(found["pyramidnet164_a270"].__doc__)
    assert "arXiv:1610.02915" in str(found["pyramidnet164_a270"].__doc__)


def test_dependencies_are_installed_packages() -> None:
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)


def test_load_without_weights() -> None:
    model = torch.hub.load(ROOT, "pyramidnet110_a48", source="local", num_classes=100)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.usefixtures("quick_unpickle")
def test_load_by_file_and_by_name(tmp_path: Path) -> None:
    from pyramidzoo.convert.conversion import convert_file

    state = random_state("wrn_16_1")
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", state), tmp_path / "in.pth")
    path = tmp_path / "out.safetensors"
    convert_file(tmp_path / "in.pth", path, layout="ferles", architecture="wrn_16_1", dataset="cifar10", num_classes=10)
    model = torch.hub.load(ROOT, "wrn_16_1", source="local", weights=str(path))
    assert torch.equal(model.fc.weight, state["fc.weight"])


@pytest.mark.parametrize("arguments", [{"pretrained": True}, {"weights": "cifar10"}, {"weights": "cifar10_akamaster"}])
def test_load_published_weights(arguments: dict[str, object], origins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origins))
    model = torch.hub.load(ROOT, "resnet20", source="local", **arguments)
    assert model.preprocessing.mean == (0.485, 0.456, 0.406)


def test_both_at_once_is_an_error() -> None:
    with pytest.raises(ValueError, match="give only one of them"):
        torch.hub.load(ROOT, "resnet20", source="local", pretrained=True, weights="cifar10")
