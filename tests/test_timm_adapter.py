"""The zoo through timm: its registry, factory, data configuration, feature extractors and layer-wise learning rates."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn

import pyramidzoo
from pyramidzoo import timm_adapter
from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data.transforms import eval_transform
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash
from pyramidzoo.models import skip_initialisation
from pyramidzoo.timm_adapter import NAME_PREFIX, compute_crop_pct, register_with_timm
from pyramidzoo.weights.fetch import WeightsFile

pytestmark = pytest.mark.contract

NAMES = list(architectures())
# the first of each class of graphs, and of each family, whose first ones are small
REPRESENTATIVES = list({row.class_name: row.name for row in reversed(list(architectures().values()))}.values())
FAMILIES = list({row.family: row.name for row in reversed(list(architectures().values()))}.values())
DIGITS = f"{NAME_PREFIX}wrn_16_1.digits_zoo"  # comes with the package: one channel, ten classes

register_with_timm()


def make(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(NAME_PREFIX + name, **settings)


def images_for(name: str, batch: int = 2) -> Tensor:
    size = 32 if get_architecture(name).input_size == 32 else 64
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of timm's own that loads weights may be called."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("timm loads weights itself")

    for name in ("load_pretrained", "load_state_dict_from_url", "load_state_dict_from_hf", "download_cached_file"):
        monkeypatch.setattr(f"timm.models._builder.{name}", refuse)


def test_every_architecture_is_registered_once() -> None:
    register_with_timm()  # again: a second registration would warn
    assert sorted(timm.list_models(f"{NAME_PREFIX}*")) == sorted(NAME_PREFIX + name for name in NAMES)
    assert sorted(timm.list_models(f"{NAME_PREFIX}*", pretrained=True)) == sorted(
        NAME_PREFIX + e for e in load_manifest().entries
    )
    assert all(
        NAME_PREFIX + name in vars(timm_adapter)["__all__"] and timm.is_model(NAME_PREFIX + name) for name in NAMES
    )
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"{NAME_PREFIX}nonsense")


def test_registration_imports_no_family() -> None:
    program = (
        "import sys; from pyramidzoo.timm_adapter import register_with_timm; register_with_timm();"
        "families = {name for name in sys.modules if name.startswith('pyramidzoo.models.')};"
        "assert families == {'pyramidzoo.models._interface', 'pyramidzoo.models._stage'}, families"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_and_layer_decay(name: str) -> None:
    row = get_architecture(name)
    with skip_initialisation():
        model = make(name)
    cfg = model.pretrained_cfg
    assert model.default_cfg is cfg
    assert (cfg["architecture"], cfg["num_classes"]) == (NAME_PREFIX + name, row.num_classes)
    default = next((e for e in load_manifest().list_entries(name) if e.default and e.dataset == row.dataset), None)
    size = (default.preprocessing.crop if default else None) or row.input_size
    assert cfg["input_size"] == (3, size, size)
    assert bool(cfg.get("tag")) == bool(default)
    assert model.get_submodule(cfg["first_conv"]).in_channels == cfg["input_size"][0]
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    reduction = model.feature_info[-1]["reduction"]
    assert cfg["pool_size"] == (math.ceil(size / reduction),) * 2
    assert ("arXiv" in row.source) == bool(cfg.get("paper_ids"))

    groups = param_groups_layer_decay(model, weight_decay=0.01, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(scales) == len(list(model.parameters()))
    ordered = [scales[id(parameter)] for parameter in model.parameters()]
    assert ordered == sorted(ordered)  # parameters are declared in the order of the forward pass
    assert ordered[0] < ordered[-1] == 1
    head = list(model.get_classifier().parameters())
    assert all(scales[id(parameter)] == 1 for parameter in head)
    stem = model.get_submodule(cfg["first_conv"]).weight
    assert scales[id(stem)] == ordered[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_optimizer_with_layer_decay(name: str) -> None:
    model = make(name).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=1e-4, momentum=0.9, layer_decay=0.7)
    before = [parameter.clone() for parameter in model.parameters()]
    model(images_for(name, 4)).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True) if new.ndim > 1)


def stage_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """What each module of `feature_info` gives, copied before anything can be added into it."""
    found: dict[str, Tensor] = {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda module, inputs, output, name=info["module"]: found.update({name: output.detach().clone()})
        )
    model(images)
    return [found[info["module"]] for info in model.feature_info]


@pytest.mark.filterwarnings("ignore:The nodes obtained by tracing")  # shake-shake trains another graph than it tests
@pytest.mark.parametrize(
    ("name", "feature_cls"), [*((name, None) for name in REPRESENTATIVES), *((name, "fx") for name in FAMILIES)]
)
def test_features_are_the_outputs_of_the_stages(name: str, feature_cls: str | None) -> None:
    images, plain = images_for(name), make(name, num_classes=0).train()
    before = copy.deepcopy(plain.state_dict()) if feature_cls is None else {}
    torch.manual_seed(0)  # shake-shake draws
    expected = stage_outputs(plain, images)
    if feature_cls is None:
        with skip_initialisation():
            extractor = make(name, features_only=True).train()
        extractor.body.load_state_dict(before)
    else:
        extractor = make(name, features_only=True, feature_cls=feature_cls).train()
    torch.manual_seed(0)
    assert not any(key.endswith("fc.weight") for key in extractor.state_dict())
    features = extractor(images)
    assert len(features) == len(expected) == len(plain.feature_info)
    for feature, stage, info in zip(features, expected, plain.feature_info, strict=True):
        assert torch.equal(feature, stage)
        assert feature.shape[1] == info["num_chs"]
        assert feature.shape[2] == math.ceil(images.shape[2] / info["reduction"])
    assert extractor.feature_info.channels() == [info["num_chs"] for info in plain.feature_info]
    assert extractor.feature_info.reduction() == [info["reduction"] for info in plain.feature_info]
    sum(feature.mean() for feature in features).backward()  # nothing that autograd needs was overwritten


@pytest.mark.parametrize(
    ("asked", "given"), [((0, 2), (0, 2)), ((2, 0), (0, 2)), ((-1,), (2,)), (2, (1, 2)), ([1], (1,)), (None, (0, 1, 2))]
)
def test_features_that_are_asked_for(asked: Any, given: tuple[int, ...]) -> None:
    images = images_for("resnet20")
    expected = stage_outputs(make("resnet20", num_classes=0).eval(), images)
    extractor = make("resnet20", features_only=True, out_indices=asked).eval()
    features = extractor(images)
    assert len(features) == len(given)
    assert all(torch.equal(feature, expected[k]) for feature, k in zip(features, given, strict=True))
    assert extractor.feature_info.channels() == [(16, 32, 64)[k] for k in given]


def test_without_weights() -> None:
    model = make("resnet20", num_classes=37, in_chans=1, drop_rate=0.2)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 37)
    assert model.head_drop_rate == 0.2
    assert make("resnet20").training
    assert make("resnet20", num_classes=0).get_classifier()(torch.ones(1)) == 1
    assert torch.equal(make("resnet20").fc.weight, make("resnet20").fc.weight)


@pytest.mark.usefixtures("no_download")
def test_weights_are_those_of_the_zoo() -> None:
    ours = pyramidzoo.create_model("wrn_16_1", weights="digits_zoo").eval()
    for name in (DIGITS, f"{NAME_PREFIX}wrn_16_1.digits"):  # the second one is the default for that data set
        model = timm.create_model(name, pretrained=True).eval()
        assert model.preprocessing == ours.preprocessing
        assert model.pretrained_cfg["tag"] == "digits_zoo"
        assert all(torch.equal(value, ours.state_dict()[key]) for key, value in model.state_dict().items())
    adapted = timm.create_model(DIGITS, pretrained=True, num_classes=5)
    assert adapted.fc.out_features == 5
    body = {key: value for key, value in adapted.state_dict().items() if not key.startswith("fc.")}
    assert len(body) == len(ours.state_dict()) - 2
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in body.items())
    images = torch.randn(2, 1, 8, 8)
    features = timm.create_model(DIGITS, pretrained=True, features_only=True).eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(features, stage_outputs(ours, images), strict=True))
    pooled = timm.create_model(DIGITS, pretrained=True, num_classes=0).eval()
    assert torch.equal(pooled(images), ours.forward_head(ours.forward_features(images), pre_logits=True))


@pytest.mark.usefixtures("no_download")
def test_the_default_is_that_of_the_architectures_own_data_set(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"wrn_16_1\.cifar10_ferles"):  # no network here
        timm.create_model(f"{NAME_PREFIX}wrn_16_1", pretrained=True)
    known = {entry.architecture for entry in load_manifest().entries.values()}
    without = next(name for name in NAMES if name not in known)
    assert make(without).pretrained_cfg["num_classes"] == get_architecture(without).num_classes
    with pytest.raises(UsageError, match=f"{without} has no weights"):
        make(without, pretrained=True)


@pytest.mark.usefixtures("no_download")
def test_a_file_that_is_not_exactly_the_networks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = pyramidzoo.create_model("wrn_16_1", weights="digits").state_dict()
    state["layer1.0.conv1.weight_extra"] = torch.zeros(1)
    path = tmp_path / "damaged.safetensors"
    write_tensors(path, state, {})
    monkeypatch.setattr("pyramidzoo.weights.fetch.package_path", lambda name: path)
    with pytest.raises(IntegrityError, match="altered"):
        timm.create_model(DIGITS, pretrained=True)
    monkeypatch.setattr("pyramidzoo.factory.fetch", lambda entry: WeightsFile(path, file_hash(path), "bundled"))
    with pytest.raises(IntegrityError, match=r"unexpected: layer1\.0\.conv1\.weight_extra"):
        timm.create_model(DIGITS, pretrained=True)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        (DIGITS, {"pretrained": True, "in_chans": 3}, UsageError, "reads 1 channels, not in_chans=3"),
        (DIGITS, {"pretrained": True, "cache_dir": "x"}, UsageError, "PYRAMIDZOO_CACHE"),
        (f"{NAME_PREFIX}wrn_16_1.cifar100_nobody", {}, UsageError, "no weights tagged 'cifar100_nobody'; it has"),
        (f"{NAME_PREFIX}resnet20", {"features_only": True, "feature_cls": "list"}, UsageError, 'use "hook"'),
        (f"{NAME_PREFIX}resnet20", {"features_only": True, "out_indices": (0, 1, 2, 3)}, UsageError, "3 feature maps"),
        (f"{NAME_PREFIX}resnet20", {"features_only": True, "out_indices": ()}, UsageError, "3 feature maps"),
        (f"{NAME_PREFIX}resnet20", {"features_only": True, "out_indices": 4}, UsageError, "3 feature maps"),
        (f"{NAME_PREFIX}resnet20", {"features_only": True, "out_indices": 0}, UsageError, "3 feature maps"),
        (f"{NAME_PREFIX}resnet20", {"global_pool": ""}, UsageError, "pools by averaging"),
        (f"{NAME_PREFIX}resnet20", {"img_size": 64}, TypeError, "img_size"),
        (f"{NAME_PREFIX}resnet20", {"depth": 56}, TypeError, "fixes depth"),
    ],
)
def test_refusals(name: str, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        timm.create_model(name, **settings)


def test_timms_own_downloader_cannot_fetch_what_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = timm.create_model(DIGITS)
    with pytest.raises(OSError, match="unknown url type: pyramidzoo"):
        timm.models.load_pretrained(model)


def test_the_data_configuration_prepares_images_as_the_weights_were_trained() -> None:
    generator = torch.Generator().manual_seed(0)
    seen: set[str] = set()
    for entry in load_manifest().entries.values():
        preprocessing = entry.preprocessing
        if preprocessing.sha256() in seen:
            continue
        seen.add(preprocessing.sha256())
        with torch.device("meta"):
            model = timm.create_model(NAME_PREFIX + entry.id)
        assert_same_transform(model, preprocessing, generator)


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (235, 224), (342, 299), (288, 288), (303, 288)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_exact(resize: int, crop: int, interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessing = Preprocessing((3, 224, 224), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), resize, crop, interpolation)
    with torch.device("meta"):
        model = make("resnet20", pretrained_cfg_overlay=timm_adapter._make_transform_fields(preprocessing))
    assert_same_transform(model, preprocessing, torch.Generator().manual_seed(0))


def assert_same_transform(model: nn.Module, preprocessing: Preprocessing, generator: torch.Generator) -> None:
    channels, height, width = preprocessing.input_size
    if preprocessing.resize is not None:
        height, width = 333, 471
    pixels = torch.randint(256, (height, width, channels), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.squeeze(-1).numpy())
    config = resolve_data_config({}, model=model)
    assert (config["mean"], config["std"]) == (preprocessing.mean, preprocessing.std)
    transform: Callable[[Image.Image], Tensor] = create_transform(**config)
    assert torch.equal(transform(image), eval_transform(preprocessing)(image))


def test_crop_fraction_survives_rounding() -> None:
    for crop in range(160, 400):
        for resize in range(crop, crop + 200):
            assert math.floor(crop / compute_crop_pct(resize, crop)) == resize


def test_models_saved_by_timm_come_back(tmp_path: Path) -> None:
    model = make("wrn_16_1", num_classes=7)
    timm.models.save_for_hf(model, tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, cache_dir=tmp_path)
    assert again.fc.out_features == 7
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    other = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, num_classes=3)
    assert torch.equal(other.conv1.weight, model.conv1.weight)


def test_checkpoints_named_by_path(tmp_path: Path) -> None:
    state = make("resnet20").state_dict()
    write_tensors(tmp_path / "one.safetensors", state, {})
    torch.save(state, tmp_path / "one.pth")
    for name in ("one.safetensors", "one.pth"):
        model = timm.create_model(f"{NAME_PREFIX}resnet20", checkpoint_path=str(tmp_path / name))
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        overlaid = make("resnet20", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / name)})
        assert torch.equal(overlaid.fc.weight, state["fc.weight"])
    torch.save({f"module.extra.{key}": value for key, value in state.items()}, tmp_path / "one.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model(f"{NAME_PREFIX}resnet20", checkpoint_path=str(tmp_path / "one.pth"))


def test_an_implausible_normalisation_is_refused(tmp_path: Path) -> None:
    """As an option it is a usage error; in a published configuration the file is wrong."""
    constants = {"mean": (51, 102, 127.5), "std": (0.2, 0.2, 0.2)}
    message = "the mean 51 102 127.5 is not within 0 to 1; .* gives the mean 0.2 0.4 0.5"
    with pytest.raises(UsageError, match=f"{NAME_PREFIX}wrn_16_1: {message}"):
        make("wrn_16_1", pretrained_cfg_overlay=constants)
    with pytest.raises(UsageError, match=message):
        make("wrn_16_1", pretrained_cfg={"num_classes": 10, **constants})
    timm.models.save_for_hf(make("wrn_16_1"), tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    content = json.loads(config.read_text())
    content["pretrained_cfg"] |= constants
    config.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=f"the configuration of .*saved.* {message}"):
        timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    mended = {"mean": (0.2, 0.4, 0.5)}  # what the caller gives takes the place of what the file says
    assert timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained_cfg_overlay=mended) is not None
