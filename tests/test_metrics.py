"""Counts, intervals and statistics against numbers worked out by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from pyramidzoo.evaluation.metrics import (
    MEAN_OF_BATCH_ERRORS,
    STATISTICS,
    label_ranks,
    prediction_sha256,
    wilson_interval,
)


def test_ranks_agree_with_topk_where_nothing_ties() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 10, generator=generator)
    labels = torch.randint(0, 10, (500,), generator=generator)
    ranks = label_ranks(logits.numpy(), labels.numpy())
    for k in (1, 5):
        hits = (logits.topk(k).indices == labels[:, None]).any(1)
        assert ((ranks < k) == hits.numpy()).all()
    assert ((ranks == 0) == (logits.argmax(1) == labels).numpy()).all()


def test_ties_go_to_the_lower_index() -> None:
    logits = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    assert label_ranks(logits, np.array([0, 1, 2])).tolist() == [0, 1, 2]
    assert (logits.argmax(1) == [0, 0, 0]).all()


def test_prediction_hash_is_of_little_endian_int64() -> None:
    logits = np.array([[0, 1], [1, 0]], np.float32)
    assert prediction_sha256(logits) == hashlib.sha256(b"\x01" + b"\0" * 7 + b"\0" * 8).hexdigest()


@pytest.mark.parametrize(
    ("wrong", "images", "low", "high"),
    # the closed formula at z = 1.959964, worked with 50 digits
    [(853, 10_000, 7.9983259, 9.0935229), (0, 10, 0.0, 27.7532799), (10, 10, 72.2467200, 100.0)],
)
def test_wilson_interval(wrong: int, images: int, low: float, high: float) -> None:
    assert wilson_interval(wrong, images) == pytest.approx((low, high), abs=2e-6)


def test_mean_of_batch_errors_weighs_the_short_batch_as_a_full_one() -> None:
    correct = np.ones(128 + 16, bool)
    correct[-1] = False
    assert STATISTICS[MEAN_OF_BATCH_ERRORS](correct) == pytest.approx(100 * (0 / 128 + 1 / 16) / 2)
    assert STATISTICS["error"](correct) == pytest.approx(100 / 144)
