"""Names and signatures that outsiders use, as they are today: `tests/data/pinned/names.json`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pinned import ROOT, is_writing, names_in, run, same, sha256_of

import hubconf
import pyramidzoo

DOCUMENT = "names"
CHECKED = [
    "attributes of networks",
    "command of the installed package",
    "constructors",
    "errors",
    "eval_transform",
    "hubconf",
    "optimized networks",
    "options of commands",
    "package",
    "records of weights",
    "signature of constructors",
    "timm",
    "timm calls",
    "weights",
]


def signature(function: Callable[..., Any]) -> str:
    """Names, kinds and defaults of parameters. Annotations name classes inside the package, which may move."""
    found = inspect.signature(function)
    plain = [part.replace(annotation=inspect.Parameter.empty) for part in found.parameters.values()]
    return str(inspect.Signature(plain))


def of_class(example: Any) -> list[str]:
    """The fields of a dataclass in their order, each with its default."""
    return [
        field.name if field.default is dataclasses.MISSING else f"{field.name} = {field.default!r}"
        for field in dataclasses.fields(example)
    ]


def test_every_expectation_is_checked() -> None:
    if is_writing():
        pytest.skip("expectations are being written anew")
    assert sorted(names_in(DOCUMENT)) == CHECKED


def test_public_names() -> None:
    known = set(pyramidzoo.list_models())
    found = {name: getattr(pyramidzoo, name) for name in pyramidzoo.__all__ if name != "__version__"}
    observed = {
        "__all__": pyramidzoo.__all__,
        "dir without the architectures": sorted(set(dir(pyramidzoo)) - known),
        "signatures": {name: f"{name}{signature(function)}" for name, function in found.items()},
        "names of functions": {name: function.__name__ for name, function in found.items()},
        "type of __version__": type(pyramidzoo.__version__).__name__,
    }
    same(DOCUMENT, "package", observed)
    assert known <= set(dir(pyramidzoo))
    assert not hasattr(pyramidzoo, "resnet21")


def test_constructors() -> None:
    names = pyramidzoo.list_models()
    same(DOCUMENT, "constructors", names)
    found = {name: getattr(pyramidzoo, name) for name in names}
    kinds = {signature(constructor) for constructor in found.values()}
    same(DOCUMENT, "signature of constructors", sorted(kinds))
    assert all(constructor.__name__ == name for name, constructor in found.items())


def test_hub_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub on the local folder: `load` takes it as it is, `list` and `help` find it where downloads are kept."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "owner_pyramidzoo_main").symlink_to(ROOT)
    trusted: dict[str, Any] = {"skip_validation": True, "trust_repo": True, "verbose": False}
    entries = torch.hub.list("owner/pyramidzoo:main", **trusted)
    page = torch.hub.help("owner/pyramidzoo:main", "wrn_16_1", skip_validation=True, trust_repo=True)
    observed = {
        "dependencies": hubconf.dependencies,
        "has a help page": isinstance(page, str) and len(page) > 100,
        "signatures": sorted({signature(getattr(hubconf, name)) for name in entries}),
    }
    same(DOCUMENT, "hubconf", observed)
    assert sorted(entries) == sorted(pyramidzoo.list_models())
    model = torch.hub.load(str(ROOT), "wrn_16_1", source="local", weights="digits")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_timm_registry() -> None:
    pyramidzoo.register_with_timm()
    names = timm.list_models("pyramidzoo_*")
    tags = timm.list_models("pyramidzoo_*", pretrained=True)
    cfg = timm.create_model("pyramidzoo_wrn_16_1").pretrained_cfg
    observed = {
        "without the prefix": "the constructors"
        if sorted(name.removeprefix("pyramidzoo_") for name in names) == sorted(pyramidzoo.list_models())
        else sorted(names),
        "pretrained": {"number": len(tags), "sha256 of the sorted names": sha256_of(sorted(tags))},
        "pretrained pyramidzoo_wrn_*": sorted(name for name in tags if name.startswith("pyramidzoo_wrn_")),
        "signatures": sorted({signature(timm.models.model_entrypoint(name)) for name in names}),
        "pretrained_cfg of pyramidzoo_wrn_16_1": {
            key: cfg[key] for key in sorted(cfg) if key in _OURS and cfg[key] is not None
        },
    }
    same(DOCUMENT, "timm", observed)


# what the adapter itself says; timm adds keys of its own, more in each version
_OURS = (
    "architecture",
    "crop_pct",
    "input_size",
    "interpolation",
    "license",
    "mean",
    "num_classes",
    "std",
    "tag",
    "url",
)


def test_timm_calls() -> None:
    pyramidzoo.register_with_timm()
    images = torch.zeros(2, 1, 8, 8)
    digits = timm.create_model("pyramidzoo_wrn_16_1.digits_zoo", pretrained=True)
    by_default = timm.create_model("pyramidzoo_wrn_16_1", pretrained=True, pretrained_cfg="digits")
    own = pyramidzoo.create_model("wrn_16_1", weights="digits")
    assert torch.equal(digits.fc.weight, own.fc.weight)
    assert torch.equal(by_default.fc.weight, own.fc.weight)
    features = timm.create_model("pyramidzoo_wrn_16_1", features_only=True, in_chans=1)
    config = timm.data.resolve_model_data_config(digits)
    observed = {
        "logits": list(digits(images).shape),
        "logits of three classes": list(timm.create_model("pyramidzoo_wrn_16_1", num_classes=3)(_colour()).shape),
        "features without a classifier": list(timm.create_model("pyramidzoo_wrn_16_1", num_classes=0)(_colour()).shape),
        "features_only": [list(part.shape) for part in features(images)],
        "data config": {name: config[name] for name in ("input_size", "mean", "std", "crop_pct", "interpolation")},
        "errors": {
            "unknown tag": _raised(lambda: timm.create_model("pyramidzoo_wrn_16_1.nobody", pretrained=True)),
            "weights that are not here": _raised(lambda: timm.create_model("pyramidzoo_wrn_16_1", pretrained=True)),
            "no weights at all": _raised(lambda: timm.create_model("pyramidzoo_preresnet110_a", pretrained=True)),
        },
    }
    same(DOCUMENT, "timm calls", observed)


def _colour() -> torch.Tensor:
    return torch.zeros(2, 3, 32, 32)


def _raised(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 (which one it is, is what is pinned)
        return type(error).__name__
    return "nothing"


def _errors(tmp_path: Path) -> Mapping[str, Callable[[], object]]:
    """What outsiders can do to meet each kind of error."""
    (tmp_path / "file").write_text("")
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.pth"
    damaged.write_bytes(b"damaged")
    other.write_bytes(b"x")
    create = pyramidzoo.create_model
    return {
        "unknown architecture": lambda: create("resnet21"),
        "unknown architecture with weights": lambda: create("resnet21", pretrained=True),
        "unknown tag": lambda: create("wrn_16_1", weights="cifar11"),
        "unknown weights": lambda: pyramidzoo.get_weights("wrn_16_1.cifar11"),
        "id of weights as a name": lambda: create("wrn_16_1.digits_zoo"),
        "weights of another architecture": lambda: create("wrn_16_1", weights="resnet20.digits_zoo"),
        "weights and pretrained": lambda: create("wrn_16_1", weights="digits", pretrained=True),
        "pretrained that is no boolean": lambda: create("wrn_16_1", pretrained="digits"),
        "weights that are a number": lambda: create("wrn_16_1", weights=3),
        "no default weights": lambda: create("preresnet110_a", pretrained=True),
        "other channels": lambda: create("wrn_16_1", weights="digits", in_chans=3),
        "unknown argument": lambda: create("wrn_16_1", nonsense=1),
        "no classes": lambda: create("wrn_16_1", num_classes=-1),
        "not here and offline": lambda: create("wrn_16_1", pretrained=True),
        "missing file": lambda: create("wrn_16_1", weights=tmp_path / "missing.safetensors"),
        "damaged file": lambda: create("wrn_16_1", weights=damaged),
        "file of another kind": lambda: create("wrn_16_1", weights=other),
        "empty folder": lambda: create("wrn_16_1", weights=str(tmp_path / "nowhere") + "/"),
        "transform without preprocessing": lambda: pyramidzoo.eval_transform(None),
        "optimize something else": lambda: pyramidzoo.optimize(torch.nn.Linear(2, 2)),
        "optimize by unknown passes": lambda: pyramidzoo.optimize(create("wrn_16_1"), form=["nonsense"]),
        "optimize to integers": lambda: pyramidzoo.optimize(create("wrn_16_1"), dtype=torch.int64),
        "training an optimized network": lambda: pyramidzoo.optimize(create("wrn_16_1")).train(),
    }


def test_errors(tmp_path: Path) -> None:
    """The class of each error, what it inherits, and its exit code."""
    observed = {}
    for situation, call in _errors(tmp_path).items():
        try:
            call()
        except Exception as error:  # noqa: BLE001 (which one it is, is what is pinned)
            line = [kind.__name__ for kind in type(error).__mro__ if kind not in (object, BaseException)]
            code = f", exit code {error.exit_code}" if hasattr(error, "exit_code") else ""
            observed[situation] = " < ".join(line) + code
        else:
            observed[situation] = "no error"
    same(DOCUMENT, "errors", observed)


def test_records_of_weights() -> None:
    """Fields and order of what `get_weights` returns and what it holds."""
    converted, bundled = (pyramidzoo.get_weights(name) for name in ("wrn_16_1.cifar10", "wrn_16_1.digits"))
    everything = [pyramidzoo.get_weights(name) for name in pyramidzoo.list_weights()]
    examples = {
        "weights": bundled,
        "weights.bundled": bundled.bundled,
        "weights.claims[]": next(entry.claims[0] for entry in everything if entry.claims),
        "weights.hub": next(entry.hub for entry in everything if entry.hub),
        "weights.license": bundled.license,
        "weights.origin": converted.origin,
        "weights.origin.hash": converted.origin.hash,
        "weights.preprocessing": bundled.preprocessing,
        "weights.results[]": bundled.results[0],
    }
    observed: dict[str, Any] = {name: of_class(example) for name, example in examples.items()}
    observed["other attributes"] = {
        name: [other for other in dir(example) if not other.startswith("_") and other not in _fields(example)]
        for name, example in examples.items()
    }
    same(DOCUMENT, "records of weights", observed)
    for example in examples.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(example, dataclasses.fields(example)[0].name, None)


def _fields(example: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(example)}


def test_weights() -> None:
    """Every id, every default and every hash of tensors; where one of these hashes is another, look at the ids."""
    entries = [pyramidzoo.get_weights(name) for name in pyramidzoo.list_weights()]
    observed = {
        "ids": [entry.id for entry in entries],
        "defaults": {f"{e.architecture}.{e.dataset}": e.id for e in entries if e.default},
        "number of ids": len(entries),
        "number with tensors_sha256": sum(entry.tensors_sha256 is not None for entry in entries),
        "sha256 of the defaults": sha256_of(sorted(entry.id for entry in entries if entry.default)),
        "sha256 of the ids": sha256_of(sorted(entry.id for entry in entries)),
        "sha256 of (id, preprocessing)": sha256_of(
            sorted([entry.id, dataclasses.asdict(entry.preprocessing)] for entry in entries)
        ),
        "sha256 of (id, tensors_sha256)": sha256_of(sorted([entry.id, entry.tensors_sha256] for entry in entries)),
        "of digits": pyramidzoo.list_weights(dataset="digits"),
        "of wrn_16_1": pyramidzoo.list_weights("wrn_16_1"),
        "of wrn_16_?.cifar*": pyramidzoo.list_weights("wrn_16_?.cifar*"),
        "list_models('*_s3')": pyramidzoo.list_models("*_s3"),
    }
    same(DOCUMENT, "weights", observed)


def test_attributes_of_networks() -> None:
    """What every network promises, and the parts by which each family's tensors are named."""
    digits = pyramidzoo.create_model("wrn_16_1", weights="digits")
    families: dict[str, Any] = {}
    for name in (
        "resnet20",
        "preresnet20",
        "wrn_16_1",
        "pyramidnet110_a48",
        "densenet_bc_40_k12",
        "shakeshake26_2x32d",
    ):
        families[name] = [part for part, _ in pyramidzoo.create_model(name).named_children()]
    observed = {
        "children": families,
        "methods": [
            f"{name}{signature(getattr(digits, name))}"
            for name in (
                "forward",
                "forward_features",
                "forward_head",
                "forward_intermediates",
                "get_classifier",
                "reset_classifier",
                "set_grad_checkpointing",
            )
            if hasattr(digits, name)
        ],
        "values": {
            "classifier_name": digits.classifier_name,
            "feature_info": digits.feature_info,
            "in training mode": digits.training,
            "num_classes": digits.num_classes,
            "num_features": digits.num_features,
            "preprocessing": dataclasses.asdict(digits.preprocessing),
            "preprocessing without weights": pyramidzoo.create_model("wrn_16_1").preprocessing,
            "stem_name": digits.stem_name,
        },
        "first tensors": list(digits.state_dict())[:8],
    }
    same(DOCUMENT, "attributes of networks", observed)


def test_optimized_networks() -> None:
    optimized = pyramidzoo.optimize(pyramidzoo.create_model("wrn_16_1", weights="digits"))
    named = pyramidzoo.optimize(pyramidzoo.create_model("densenet_bc_40_k12"), form=list(optimized.passes))
    observed = {
        "passes of wrn_16_1": list(optimized.passes),
        "of these in densenet_bc_40_k12": list(named.passes),
        "num_classes": optimized.num_classes,
        "preprocessing": dataclasses.asdict(optimized.preprocessing),
        "in training mode": optimized.training,
        "logits": list(optimized(torch.zeros(2, 1, 8, 8)).shape),
    }
    same(DOCUMENT, "optimized networks", observed)


def test_transform() -> None:
    """The steps of the transform and, for whole numbers of pixels, what it gives."""
    small, large = (pyramidzoo.get_weights(name).preprocessing for name in ("wrn_16_1.cifar10", "resnet50.imagenet1k"))
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.int64).reshape(32, 32, 3).astype(np.uint8))
    found = pyramidzoo.eval_transform(small)(image)
    observed = {
        "large": _steps(pyramidzoo.eval_transform(large)),
        "small": _steps(pyramidzoo.eval_transform(small)),
        "result": [str(found.dtype), *found.shape],
        "corner": [round(value, 4) for value in found[:, 0, 0].tolist()],
    }
    same(DOCUMENT, "eval_transform", observed)


def _steps(transform: Any) -> list[str]:
    return [type(step).__name__ for step in transform.transforms]


def test_the_command_of_the_installed_package() -> None:
    """`pyramidzoo` in a shell is what pyproject.toml names; it is found and it prints its version."""
    (name, module, function) = re.findall(
        r'^\[project\.scripts\]\n(\w+) = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )[0]
    loaded: ModuleType = importlib.import_module(module)
    with pytest.raises(SystemExit) as left:
        getattr(loaded, function)(["--version"])
    same(DOCUMENT, "command of the installed package", {"name": name, "exit code of --version": left.value.code})


def test_options_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and every option with all its spellings and choices; what is said of them is not pinned."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    commands = re.findall(r"^    ([a-z]+) ", run("--help").out, re.MULTILINE)
    observed = {}
    for command in commands:
        for line in run(command, "--help").out.splitlines():
            if line.startswith("  -"):
                left = line.strip().partition("  ")[0]
                spellings = re.findall(r"(?:^|, )(--?[a-z][a-z-]*)", left)
                choices = re.findall(r"{.*?}", left)
                observed[f"{command} {spellings[-1]}"] = ", ".join([*spellings[:-1], *choices[:1]])
    same(DOCUMENT, "options of commands", {"commands": commands, **observed})
