"""Evaluation: prediction files, what the reducer refuses, interrupted runs, restored arithmetic, wrong requests."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_state

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_tensors, write_tensors
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import evaluation_target
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.environment import pick_device
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.evaluation.metrics import label_ranks
from pyramidzoo.evaluation.predictions import (
    Part,
    Predictions,
    is_valid,
    read_predictions,
    reduce_predictions,
    write_predictions,
)
from pyramidzoo.evaluation.records import read_records
from pyramidzoo.factory import create_model
from pyramidzoo.files import package_path

CPU = ComputeSettings(torch.device("cpu"), batch_size=8)


@pytest.fixture
def target(tmp_path: Path) -> EvaluationTarget:
    description = Description(
        architecture="wrn_16_1",
        arguments={},
        dataset="cifar10",
        num_classes=10,
        preprocessing=Preprocessing((3, 32, 32), (0.5,) * 3, (0.25,) * 3),
        layout="ferles",
        origin_sha256="0" * 64,
    )
    write_tensors(tmp_path / "random.safetensors", random_state("wrn_16_1"), description.to_metadata())
    return EvaluationTarget.from_file(tmp_path / "random.safetensors")


UNIT = {"a": 1}


def write_part(path: Path, start: int, count: int, classes: int = 3) -> Path:
    """Write random predictions for `count` samples, which begin at the index `start`."""
    generator = torch.Generator().manual_seed(start)
    logits = torch.randn(count, classes, generator=generator)
    index = np.arange(start, start + count)
    write_predictions(path, Part("random", index, np.zeros(count, np.int64), logits.numpy()), UNIT)
    return path


def read_and_reduce(paths: list[Path], images: int) -> Predictions:
    return reduce_predictions((read_predictions(path, UNIT) for path in paths), images)


def test_parts_in_any_order_make_the_whole(tmp_path: Path) -> None:
    paths = [write_part(tmp_path / "b", 4, 6), write_part(tmp_path / "a", 0, 4)]
    whole = read_and_reduce(paths, 10)
    assert whole.logits.shape == (10, 3)
    assert torch.equal(
        torch.from_numpy(whole.logits[4:]), torch.randn(6, 3, generator=torch.Generator().manual_seed(4))
    )


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 4), (5, 5)], "1 of 10 samples were not predicted"),
        ([(0, 6), (4, 6)], "2 were predicted more than once"),
        ([(0, 9)], "1 of 10 samples were not predicted"),
        ([(0, 11)], r"outside 0 \.\. 9"),
        ([], "10 of 10 samples were not predicted"),
    ],
)
def test_no_number_unless_every_index_was_seen_once(spans: list[tuple[int, int]], message: str, tmp_path: Path) -> None:
    paths = [write_part(tmp_path / str(k), start, count) for k, (start, count) in enumerate(spans)]
    with pytest.raises(IntegrityError, match=message):
        read_and_reduce(paths, 10)


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="another run with other settings"):
        read_predictions(write_part(tmp_path / "a", 0, 10), {"a": 2})


def test_logits_that_are_not_finite_give_no_number() -> None:
    logits = np.zeros((4, 3), np.float32)
    logits[2, 1] = float("nan")
    with pytest.raises(IntegrityError, match="NaN or infinite"):
        reduce_predictions([Part("zeros", np.arange(4), np.zeros(4, np.int64), logits)], 4)


def test_damaged_predictions_are_refused(tmp_path: Path) -> None:
    path = write_part(tmp_path / "a", 0, 10)
    assert is_valid(path, {"a": 1})
    assert not is_valid(path, {"a": 2})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not is_valid(path, {"a": 1})
    with pytest.raises(IntegrityError, match="does not match its hash"):
        read_and_reduce([path], 10)
    path.write_bytes(content[:-20])
    assert not is_valid(path, {"a": 1})
    assert not is_valid(tmp_path / "nothing", {"a": 1})


def test_counts_are_equal_to_those_of_a_plain_loop(
    target: EvaluationTarget, small_set: ImageSet, tmp_path: Path
) -> None:
    record = evaluate(target, small_set, CPU, output=tmp_path / "out")
    model = create_model("wrn_16_1", weights=target.path).eval()
    with torch.inference_mode():
        logits = torch.cat([model(Normalize(target.preprocessing)(b)) for b in small_set.images.split(8)])
    ranks = label_ranks(logits.numpy(), small_set.labels.numpy())
    assert (record.images, record.top1_correct, record.top5_correct) == (300, (ranks < 1).sum(), (ranks < 5).sum())
    assert record.recorded == "none"
    assert record.claims == ()
    assert read_records(tmp_path / "out") == [record]
    (folder,) = (tmp_path / "out" / record.weights).iterdir()
    assert folder.name.startswith("cifar10-test-fp32-")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        f"predictions-{start:06d}-{min(start + 32, 300):06d}.safetensors" for start in range(0, 300, 32)
    ] + ["record.json"]


def test_batch_size_changes_no_count(target: EvaluationTarget, small_set: ImageSet) -> None:
    records = [evaluate(target, small_set, ComputeSettings(torch.device("cpu"), batch_size=b)) for b in (7, 300)]
    assert records[0].prediction_sha256 == records[1].prediction_sha256


def test_resuming_computes_only_what_is_missing(
    target: EvaluationTarget, small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = tmp_path / "out"
    batches: list[int] = []
    compute_logits = Engine._compute_logits

    def interrupt_or_compute(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        if len(batches) == stop_after:
            raise KeyboardInterrupt
        batches.append(len(batch))
        return compute_logits(self, key, network, batch)

    monkeypatch.setattr(Engine, "_compute_logits", interrupt_or_compute)
    stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        evaluate(target, small_set, CPU, output=output)
    assert read_records(output) == []
    stop_after, batches[:] = -1, []
    resumed = evaluate(target, small_set, CPU, output=output)
    assert sum(batches) == 300 - 7 * 32  # The files of seven units were complete.
    assert "7 of 10 prediction files are there already" in capsys.readouterr().err
    assert (resumed.reused_files, resumed.duration_seconds) == (7, None)
    assert evaluate(target, small_set, CPU).prediction_sha256 == resumed.prediction_sha256

    batches[:] = []
    evaluate(target, small_set, CPU, output=output)
    assert batches == []
    (next((output / resumed.weights).glob("*/predictions-000000*"))).write_bytes(b"damaged")
    assert evaluate(target, small_set, CPU, output=output).prediction_sha256 == resumed.prediction_sha256
    assert sum(batches) == 32
    batches[:] = []
    evaluate(target, small_set, ComputeSettings(torch.device("cpu"), 8, channels_last=True), output=output)
    assert sum(batches) == 300  # Files of other flags are not reused.
    assert len(read_records(output)) == 2


def test_what_is_not_strict_is_recorded(target: EvaluationTarget, small_set: ImageSet) -> None:
    record = evaluate(target, small_set, ComputeSettings(torch.device("cpu"), 64, amp="bf16", channels_last=True))
    assert record.precision == "bf16"
    assert not record.strict
    assert record.claims == ()
    assert record.flags == {"batch_size": 64, "channels_last": True, "amp": "bf16"}


def test_the_arithmetic_of_the_process_is_restored(target: EvaluationTarget, small_set: ImageSet) -> None:
    settings_during_forward = []
    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark)
    model_type = type(create_model("wrn_16_1"))
    forward = model_type.forward

    def note_settings(self: Any, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.Tensor):  # It is not a tensor while torch.fx traces the network.
            settings = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic
            settings_during_forward.append(settings)
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_type, "forward", note_settings)
        cudnn.benchmark = True
        try:
            evaluate(target, small_set, CPU)
            assert cudnn.benchmark
        finally:
            cudnn.benchmark = before[2]
    assert set(settings_during_forward) == {("ieee", "ieee", False, True)}
    assert (matmul.fp32_precision, cudnn.conv.fp32_precision) == before[:2]


def test_requests_that_make_no_sense(target: EvaluationTarget, small_set: ImageSet, tmp_path: Path) -> None:
    other = ImageSet("cifar100", "test", 100, small_set.images, small_set.labels, "1" * 64)
    with pytest.raises(UsageError, match="was trained on cifar10, not on cifar100"):
        evaluate(target, other, CPU)
    resized = dataclasses.replace(target, preprocessing=dataclasses.replace(target.preprocessing, resize=40, crop=32))
    with pytest.raises(UsageError, match=r"resize 40, crop 32.*cifar10.*full images"):
        evaluate(resized, small_set, CPU)
    write_tensors(tmp_path / "plain.safetensors", random_state("wrn_16_1"), {})
    with pytest.raises(UsageError, match="no description"):
        EvaluationTarget.from_file(tmp_path / "plain.safetensors")
    with pytest.raises(UsageError, match="`pyramidzoo convert"):
        EvaluationTarget.from_file(tmp_path / "in.pth")
    with pytest.raises(UsageError, match="'gpu'"):
        pick_device("gpu")
    with pytest.raises(UnavailableError, match="CUDA devices are visible"):
        pick_device("cuda:99")


COUNT_PAGE_FAULTS = """
import resource, torch
from pyramidzoo.evaluation.environment import keep_memory
allocate = lambda: [torch.ones(10_000_000).sum() for _ in range(8)]
def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_before, has_setting = count_faults(), keep_memory()
allocate()
print(faults_before, has_setting, count_faults())
"""


def test_freed_memory_is_kept() -> None:
    """glibc gives blocks of 40 MB (9,766 pages) back to the kernel, and each new page costs a page fault."""
    done = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True)
    faults_before, has_setting, faults_after = done.stdout.split()
    if has_setting == "False" or int(faults_before) < 40_000:
        pytest.skip("this C library, or its allocator, keeps freed memory anyway")
    assert int(faults_after) < int(faults_before) // 2  # One or two blocks can still make the heap larger.


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_counts_of_the_cpu(target: EvaluationTarget, small_set: ImageSet) -> None:
    on_cpu = evaluate(target, small_set, CPU)
    on_gpu = evaluate(target, small_set, ComputeSettings(torch.device("cuda"), 64))
    assert (on_gpu.top1_correct, on_gpu.top5_correct) == (on_cpu.top1_correct, on_cpu.top5_correct)


@pytest.mark.parametrize(("error", "shown"), [(OSError(13, "no", "f"), "f: no"), (OSError("odd"), "the system: odd")])
def test_errors_of_the_system_keep_its_words(error: OSError, shown: str) -> None:
    assert str(UnavailableError.from_os_error(error)) == shown


def test_files_of_one_name_keep_separate_records(target: EvaluationTarget, small_set: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    description = Description.from_file(target.path)
    assert description is not None
    path = tmp_path / "other" / target.path.name
    write_tensors(path, random_state("wrn_16_1", seed=1), description.to_metadata())
    output = tmp_path / "out"
    first = evaluate(target, small_set, CPU, output=output)
    second = evaluate(EvaluationTarget.from_file(path), small_set, CPU, output=output)
    assert first.prediction_sha256 != second.prediction_sha256
    assert read_records(output) == sorted([first, second], key=lambda record: record.weights)


def test_an_entry_must_be_loaded_with_its_own_tensors(target: EvaluationTarget, small_set: ImageSet) -> None:
    entry = load_manifest().find("wrn_16_1.cifar10_ferles")
    wrong_entry = dataclasses.replace(target, name=entry.id, entry=entry)
    with pytest.raises(IntegrityError, match=r"not hold the tensors of wrn_16_1\.cifar10_ferles"):
        evaluate(wrong_entry, small_set, CPU)


HOSTILE: list[tuple[str, Any]] = [
    ("architecture", ["wrn_16_1"]),
    ("architecture", None),
    ("dataset", ["cifar10"]),
    ("arguments", "abc"),
    ("arguments", [1]),
    ("arguments", {"num_classes": 3}),
    ("arguments", {"pretrained": True}),
    ("num_classes", "ten"),
    ("num_classes", 10**400),
    ("preprocessing", None),
    ("preprocessing", {"mean": [0.5], "std": [0.5]}),
    ("preprocessing", {"input_size": [3, 32, 32], "mean": [10**400, 0, 0], "std": [1, 1, 1]}),
    ("origin_sha256", "abc"),
    ("layout", 3),
]


@pytest.mark.parametrize(("field", "value"), HOSTILE)
def test_hostile_descriptions(field: str, value: Any, target: EvaluationTarget, tmp_path: Path) -> None:
    description = Description.from_file(target.path)
    assert description is not None
    content = json.loads(description.to_metadata()["pyramidzoo"])
    content[field] = (
        {**dict.fromkeys(("resize", "crop", "interpolation")), **value}
        if isinstance(value, dict) and (field == "preprocessing")
        else value
    )
    path = tmp_path / "hostile.safetensors"
    write_tensors(path, random_state("wrn_16_1"), {"pyramidzoo": json.dumps(content)})
    with pytest.raises(IntegrityError, match="metadata"):
        EvaluationTarget.from_file(path)


@pytest.mark.parametrize("arguments", [{"depth": 20}, {"foo": 1}, {"drop_rate": 2}])
def test_arguments_that_do_not_fit_the_network(
    arguments: dict[str, Any], target: EvaluationTarget, small_set: ImageSet, tmp_path: Path
) -> None:
    description = Description.from_file(target.path)
    assert description is not None
    metadata = dataclasses.replace(description, arguments=arguments).to_metadata()
    write_tensors(tmp_path / "hostile.safetensors", random_state("wrn_16_1"), metadata)
    with pytest.raises(IntegrityError, match=r"metadata.* wrn_16_1"):
        evaluate(EvaluationTarget.from_file(tmp_path / "hostile.safetensors"), small_set, CPU)


@pytest.mark.parametrize(
    "change",
    [{"images": None}, {"images": 0}, {"images": "300"}, {"top1_correct": 301}, {"weights": []}, {"claims": [{}]}],
)
def test_damaged_records(change: dict[str, Any], target: EvaluationTarget, small_set: ImageSet, tmp_path: Path) -> None:
    evaluate(target, small_set, CPU, output=tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("record.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="not a record"):
        read_records(tmp_path / "out")
    path.write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match="not a record"):
        read_records(tmp_path / "out")


def test_claims_need_the_preprocessing_of_the_entry() -> None:
    entry = load_manifest().find("resnet20_fattorib.cifar10")
    assert entry.tensors_sha256 is not None
    assert evaluation_target._find_entry(entry.tensors_sha256, entry.preprocessing) is entry
    other = dataclasses.replace(entry.preprocessing, mean=(0.5, 0.5, 0.5))
    assert evaluation_target._find_entry(entry.tensors_sha256, other) is None
    assert evaluation_target._find_entry("0" * 64, entry.preprocessing) is None
    assert evaluation_target._find_entry(entry.tensors_sha256, entry.preprocessing, entry.dataset) is entry
    assert evaluation_target._find_entry(entry.tensors_sha256, entry.preprocessing, "svhn") is None


def test_recorded_results_of_another_dataset_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`convert --force` allows a file to name another dataset than the entry with the same tensors."""
    entry = load_manifest().find("wrn_16_1.digits_zoo")
    path = tmp_path / "other.safetensors"
    tensors = read_tensors(package_path("bundled/wrn_16_1.digits_zoo.safetensors"))
    images = load_dataset("digits", "test", None)
    for dataset, recorded in [("digits", "exact"), ("other", "none")]:
        description = Description("wrn_16_1", {}, dataset, 10, entry.preprocessing, None, None)
        write_tensors(path, tensors, description.to_metadata())
        record = evaluate(EvaluationTarget.from_file(path), dataclasses.replace(images, name=dataset), CPU)
        assert record.recorded == recorded
