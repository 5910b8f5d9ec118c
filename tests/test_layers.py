"""The order of imports: a module imports only what stands above it in docs/design.md, and its own package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pyramidzoo"

# The order of docs/design.md. A module or package imports what stands before it, and its own package.
ORDER = [
    "errors",
    "files",
    "json_records",
    "text_output",
    "catalog",
    "models",
    "checkpoints",
    "convert",
    "weights",
    "data",
    "inference",
    "factory",
    "timm_adapter",
    "evaluation",
    "training",
    "bench",
    "hub",
    "commands",
    "cli",
    "__main__",
]
FLOORS = {name: floor for floor, name in enumerate(ORDER)}
ROOT = "pyramidzoo"  # hands out the public names lazily, and its version may be read anywhere


def imports(path: Path) -> set[str]:
    """The pyramidzoo modules that a file imports anywhere in it, as the first part after the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == ROOT else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == ROOT and rest and not rest.startswith("__"):
                found.add(rest.split(".")[0])
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports(path) - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own} imports {other}"


def test_models_do_not_know_each_other_or_weights() -> None:
    families = [path for path in (PACKAGE / "models").glob("*.py") if not path.name.startswith("_")]
    assert len(families) == 9
    for path in families:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyramidzoo"):
                assert node.module == "pyramidzoo.models" or node.module.startswith("pyramidzoo.models._")


def test_model_files_stay_short() -> None:
    for path in (PACKAGE / "models").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250, path.name


def test_the_basics_and_the_catalog_need_no_torch() -> None:
    files = [PACKAGE / f"{name}.py" for name in ORDER[: ORDER.index("catalog")]]
    files += [
        *(PACKAGE / "catalog").rglob("*.py"),
        PACKAGE / "checkpoints" / "archives.py",
        *(PACKAGE / "weights" / f"{name}.py" for name in ("cache", "context", "local")),
    ]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            heavy = [module for module in modules if module.split(".")[0] in ("torch", "numpy", "safetensors")]
            assert not heavy, f"{path.relative_to(PACKAGE)} imports {heavy}"
