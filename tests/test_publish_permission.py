"""What may be published: the license allows it, and somebody measured these weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from publishing import BUNDLED_ID, UseManifest, package_entries

from pyramidzoo import cli
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.weights_entry import License, WeightsEntry
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.hub.permission import explain_refusal, merge_results
from pyramidzoo.hub.prepare import check_repo_id, prepare_folder


@pytest.mark.parametrize(
    ("license_name", "reason"), [(None, "unknown"), ("none stated", "not stated"), ("CC-BY-NC-4.0", "CC-BY-NC-4.0")]
)
def test_a_license_must_allow_it(
    license_name: str | None, reason: str, lab_entry: WeightsEntry, tmp_path: Path
) -> None:
    entry = dataclasses.replace(lab_entry, license=License("MIT", license_name))
    assert f"license of the weights is {reason}" in str(explain_refusal(entry, entry.results))
    with pytest.raises(UsageError, match=f"{lab_entry.id} is not published: the license"):
        prepare_folder(entry, tmp_path / "made", "lab/net")
    assert not (tmp_path / "made").exists()


def test_the_weights_must_be_measured_in_fp32(lab_entry: WeightsEntry, tmp_path: Path) -> None:
    measured_in_bf16 = dataclasses.replace(lab_entry.results[0], precision="bf16")
    for results in ((), (measured_in_bf16,)):
        entry = dataclasses.replace(lab_entry, results=results)
        reason = str(explain_refusal(entry, results))
        assert "not measured" in reason
        assert "pyramidzoo evaluate" in reason
        with pytest.raises(UsageError, match="not measured"):
            prepare_folder(entry, tmp_path / "made", "lab/net")
    assert explain_refusal(lab_entry, lab_entry.results) is None


def test_every_weights_id_can_be_the_name_of_a_repository() -> None:
    for weights_id in load_manifest().entries:
        assert check_repo_id(f"pyramidzoo/{weights_id}")


@pytest.fixture
def record(tmp_path: Path, use_manifest: UseManifest) -> Record:
    """The record of an evaluation of bundled weights."""
    use_manifest(package_entries(BUNDLED_ID))
    assert cli.main(["evaluate", BUNDLED_ID, "--output", str(tmp_path / "records")]) == 0
    (record,) = read_records(tmp_path / "records")
    return record


@pytest.fixture
def unmeasured(record: Record) -> WeightsEntry:
    """The same weights as in the record, with neither results nor a hash of the tensors."""
    return dataclasses.replace(load_manifest().find(BUNDLED_ID), results=(), tensors_sha256=None)


def test_a_record_of_other_tensors_does_not_count(unmeasured: WeightsEntry, record: Record, tmp_path: Path) -> None:
    of_other_tensors = dataclasses.replace(record, tensors_sha256="0" * 64)
    # As long as the hash of the tensors is unknown, the weights id decides.
    assert len(merge_results(unmeasured, [of_other_tensors])) == 1
    with pytest.raises(UsageError, match="not measured"):
        prepare_folder(unmeasured, tmp_path / "made", "lab/net", records=[of_other_tensors])
    prepared = prepare_folder(unmeasured, tmp_path / "made", "lab/net", records=[record])
    assert prepared.entry.results[0].top1_correct == record.top1_correct


def test_a_record_with_other_preprocessing_does_not_count(unmeasured: WeightsEntry, record: Record) -> None:
    assert merge_results(unmeasured, [dataclasses.replace(record, preprocessing_sha256="0" * 64)]) == ()


def test_the_newest_record_replaces_the_manifests_result(unmeasured: WeightsEntry, record: Record) -> None:
    measured = dataclasses.replace(unmeasured, results=merge_results(unmeasured, [record]))
    newer = dataclasses.replace(record, top1_correct=1, date="9999")
    assert [result.top1_correct for result in merge_results(measured, [newer, record])] == [1]
