"""Both verdicts, at their limits and around them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from pyramidzoo.catalog.weights_entry import Result
from pyramidzoo.evaluation.verdicts import Counts, claim_verdict, flip_budget, paper_verdict, recorded_verdict

RESULT = Result(
    split="test",
    protocol="p",
    images=10_000,
    top1_correct=9147,
    top5_correct=9977,
    statistics={},
    prediction_sha256="a" * 64,
    precision="fp32",
    device="cpu",
    versions={},
    date="2026-01-01",
)


@pytest.mark.parametrize(
    ("top1", "top5", "prediction_sha256", "verdict", "reason"),
    [
        (9147, 9977, "a" * 64, "exact", "every image"),
        (9147, 9977, "b" * 64, "changed", "some predictions moved"),
        (9146, 9977, "a" * 64, "changed", "853 wrong .* 854 and 9977"),
        (9147, 9976, "a" * 64, "changed", "9977 top-5 .* 9976"),
    ],
)
def test_recorded(top1: int, top5: int, prediction_sha256: str, verdict: str, reason: str) -> None:
    actual_verdict, detail = recorded_verdict(Counts(10_000, top1, top5, prediction_sha256), RESULT)
    assert actual_verdict == verdict
    assert re.search(reason, detail)


def test_nothing_recorded() -> None:
    assert recorded_verdict(Counts(10, 1, 5, "a" * 64), None)[0] == "none"


@pytest.mark.parametrize(("images", "budget"), [(10_000, 2), (50_000, 5), (26_032, 5), (360, 0), (5_000, 1)])
def test_flip_budget(images: int, budget: int) -> None:
    assert flip_budget(images) == budget


@pytest.mark.parametrize(
    ("published", "ours", "verdict"),
    [
        ("8.27", 8.27, "matched"),
        ("8.27", 8.29, "matched"),  # Two flips.
        ("8.27", 8.30, "different"),
        ("8.57", 8.574, "matched"),  # The rounding, and no flip.
        ("8.57", 8.5949, "matched"),  # The rounding, and two flips.
        ("8.57", 8.596, "different"),
        ("7.50", 7.615, "different"),
        ("7.5", 7.565, "matched"),  # It is printed with one digit, so its rounding is coarser.
        ("7.5", 7.58, "different"),
        ("4", 4.49, "matched"),
        ("4", 4.53, "different"),
    ],
)
def test_claim(published: str, ours: float, verdict: str) -> None:
    assert claim_verdict(Decimal(published), ours, 10_000) == verdict


def test_other_weights_are_never_matched() -> None:
    assert paper_verdict(Decimal("8.75"), None, 8.27, (7.75, 8.82)) == "consistent"
    assert paper_verdict(Decimal("6.97"), None, 7.56, (7.06, 8.09)) == "different"
    assert paper_verdict(Decimal("6.97"), "± 0.60", 7.56, (7.06, 8.09)) == "consistent"
    assert paper_verdict(Decimal("6.97"), "± 0.50", 7.56, (7.06, 8.09)) == "different"
    assert paper_verdict(Decimal("6.97"), "median of 5 runs", 7.56, (7.06, 8.09)) == "different"
