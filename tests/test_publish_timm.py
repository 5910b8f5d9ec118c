"""Published repositories in timm: networks that timm has itself, networks that pyramidzoo registers, and images."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from publishing import (
    BUNDLED_ID,
    IGNORE_CLIENT_WARNING,
    PACKAGE_MANIFEST,
    RESULT,
    MakeCheckpoint,
    UseManifest,
    hub_environment,
    make_entry,
    publish,
)
from timm.data import create_transform, resolve_data_config

import pyramidzoo
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import read_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.convert.layouts.timm import SHARED_ARCHITECTURES
from pyramidzoo.data.transforms import eval_transform
from pyramidzoo.hub.prepare import CARD_NAME, prepare_folder
from pyramidzoo.hub.timm_config import find_timm_name, make_timm_config
from pyramidzoo.hub.upload import upload_folder
from pyramidzoo.models import build

pytestmark = IGNORE_CLIENT_WARNING

# timm 1.0.20 reads only pickles from a local folder.
READS_LOCAL_FOLDERS = tuple(map(int, timm.__version__.split(".")[:3])) > (1, 0, 20)

TIMM_SCRIPT = """
import json, sys, torch, timm
torch.manual_seed(0)
jobs = json.loads(sys.argv[1])
if sys.argv[2] == "registered":
    import pyramidzoo
    pyramidzoo.register_with_timm()
with torch.inference_mode():
    for name, images, logits in jobs:
        model = timm.create_model(name, pretrained=True).eval()
        torch.save(model(torch.load(images)), logits)
assert ("pyramidzoo" in sys.modules) == (sys.argv[2] == "registered"), "pyramidzoo was imported"
"""


def compute_timm_logits(
    names: list[str], images: torch.Tensor, hub: HubServer, tmp_path: Path, *, registered: bool
) -> list[torch.Tensor]:
    """Create networks with timm in another process, and return their logits.

    Args:
        names: What `timm.create_model` is given.
        images: The images, (N, C, H, W).
        hub: The Hub that timm downloads from.
        tmp_path: A folder for the files in between.
        registered: Whether that process calls `register_with_timm` first. If not, it must not import pyramidzoo.
    """
    torch.save(images, tmp_path / "images.pt")
    outputs = [tmp_path / f"{number}.pt" for number in range(len(names))]
    jobs = json.dumps([[name, str(tmp_path / "images.pt"), str(out)] for name, out in zip(names, outputs, strict=True)])
    command = [sys.executable, "-W", "ignore", "-c", TIMM_SCRIPT, jobs, "registered" if registered else "alone"]
    process = subprocess.run(command, env=hub_environment(hub, tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    return [torch.load(output) for output in outputs]


@pytest.mark.server
@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize(
    "names",
    [
        ("resnet18", "densenet121"),
        pytest.param(
            ("resnet26_bottleneck", "vgg11_bn", "seresnet50", "seresnext50_32x4d", "resnext50_32x4d", "senet154"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["quick", "others"],
)
def test_timm_loads_its_own_networks_without_pyramidzoo(
    names: tuple[str, ...],
    hub: HubServer,
    make_checkpoint: MakeCheckpoint,
    use_manifest: UseManifest,
    tmp_path: Path,
) -> None:
    result = RESULT | {"protocol": "resize 232, center crop 224, one pass"}
    ids = [f"{name}.imagenet1k_lab" for name in names]
    use_manifest(
        {
            weights_id: make_entry(name, "imagenet1k", make_checkpoint(name), results=[result])
            for name, weights_id in zip(names, ids, strict=True)
        }
    )
    assert publish("--all", "--org", "lab", "--output", tmp_path / "kept") == 0
    sources = [f"hf-hub:lab/{weights_id}" for weights_id in ids]
    if READS_LOCAL_FOLDERS:
        sources.append(f"local-dir:{tmp_path / 'kept' / ids[0]}")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    all_logits = compute_timm_logits(sources, images, hub, tmp_path, registered=False)
    for name, logits in zip([*names, names[0]][: len(sources)], all_logits, strict=True):
        model = pyramidzoo.create_model(name, weights="imagenet1k_lab").eval()
        with torch.inference_mode():
            torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)
        assert logits.std() > 0.01
        card = ModelCard(hub.files(f"lab/{name}.imagenet1k_lab")[CARD_NAME].decode())
        assert isinstance(card.data, ModelCardData)
        assert card.data.library_name == "timm"
        assert "import pyramidzoo" in card.text
        assert "register_with_timm" not in card.text


@pytest.mark.server
@pytest.mark.usefixtures("owner")
def test_timm_loads_other_networks_after_registration(lab_entry: WeightsEntry, hub: HubServer, tmp_path: Path) -> None:
    prepared = prepare_folder(lab_entry, tmp_path / "kept", "lab/net")
    upload_folder(prepared)
    sources = ["hf-hub:lab/net", *([f"local-dir:{prepared.folder}"] if READS_LOCAL_FOLDERS else [])]
    images = torch.randn(2, 3, 32, 32)
    all_logits = compute_timm_logits(sources, images, hub, tmp_path, registered=True)
    model = pyramidzoo.create_model("wrn_16_1", weights="cifar10_lab").eval()
    with torch.inference_mode():
        assert all(torch.equal(logits, model(images)) for logits in all_logits)


@pytest.mark.server
@pytest.mark.usefixtures("owner", "hub")
def test_timm_loads_a_network_with_one_input_channel(tmp_path: Path) -> None:
    digits = prepare_folder(read_manifest(PACKAGE_MANIFEST).find(BUNDLED_ID), tmp_path / "digits", "lab/digits")
    upload_folder(digits)
    pyramidzoo.register_with_timm()
    of_timm = timm.create_model("hf-hub:lab/digits", pretrained=True).eval()
    ours = pyramidzoo.create_model("wrn_16_1", weights="digits").eval()
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(of_timm(images), ours(images))


@pytest.mark.parametrize("name", sorted(SHARED_ARCHITECTURES))
def test_the_configuration_of_a_network_that_timm_has(name: str, lab_entry: WeightsEntry) -> None:
    """Names and shapes are compared here; test_parity_registered compares the logits of each."""
    entry = dataclasses.replace(
        lab_entry, id=f"{name}.imagenet1k_lab", architecture=name, dataset="imagenet1k", num_classes=1000
    )
    with torch.device("meta"):
        ours = build(get_architecture(name))
        timm_name = find_timm_name(entry)
        assert timm_name is not None
        of_timm = timm.create_model(timm_name)
    config = make_timm_config(entry, ours, timm_name)
    cfg, timm_cfg = config["pretrained_cfg"], of_timm.pretrained_cfg
    assert config["architecture"] == timm_name
    assert config["num_features"] == of_timm.num_features
    assert (cfg["classifier"], cfg["first_conv"]) == (timm_cfg["classifier"], timm_cfg["first_conv"])
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    timm_shapes = {key: value.shape for key, value in of_timm.state_dict().items()}
    if name.startswith("vgg"):  # timm turns the head's linear layers into convolutions when it reads them
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("classifier")}
        timm_shapes = {key: shape for key, shape in timm_shapes.items() if key.startswith("features")}
    assert timm_shapes == shapes


def test_timms_transform_is_ours(lab_entry: WeightsEntry) -> None:
    pixels = torch.randint(256, (333, 471, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    with torch.device("meta"):
        model = build(get_architecture("resnet18"))
    for resize, crop, interpolation in ((232, 224, "bicubic"), (256, 224, "bilinear"), (288, 288, "bicubic")):
        preprocessing = Preprocessing((3, 224, 224), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), resize, crop, interpolation)
        entry = dataclasses.replace(
            lab_entry,
            id="resnet18.imagenet1k_lab",
            architecture="resnet18",
            dataset="imagenet1k",
            preprocessing=preprocessing,
        )
        config = json.loads(json.dumps(make_timm_config(entry, model, "resnet18")))
        transform = create_transform(**resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]))
        assert torch.equal(transform(image), eval_transform(preprocessing)(image))


def test_arguments_of_the_entry_are_in_the_configuration(lab_entry: WeightsEntry) -> None:
    entry = dataclasses.replace(lab_entry, arguments={"drop_rate": 0.3})
    model = build(get_architecture("wrn_16_1"))
    assert make_timm_config(entry, model, None)["model_args"] == {"drop_rate": 0.3}


def test_with_other_arguments_a_network_is_not_timms(lab_entry: WeightsEntry) -> None:
    entry = dataclasses.replace(lab_entry, id="resnet18.cifar10_lab", architecture="resnet18")
    assert find_timm_name(entry) == "resnet18"
    assert find_timm_name(dataclasses.replace(entry, arguments={"drop_rate": 0.3})) is None
