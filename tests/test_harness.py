"""Prediction files, the reducer's refusals, resuming, and arithmetic that is put back as it was."""

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

from pyramidzoo.catalog.manifest import Preprocessing, load_manifest
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_tensors, write_tensors
from pyramidzoo.data.datasets import ImageSet, load_dataset
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import evaluation_target as subjects
from pyramidzoo.evaluation.engine import ComputeSettings, Engine
from pyramidzoo.evaluation.environment import pick_device
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.evaluation.harness import evaluate
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
from pyramidzoo.files import packaged

CPU = ComputeSettings(torch.device("cpu"), batch_size=8)


@pytest.fixture
def subject(tmp_path: Path) -> EvaluationTarget:
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
    return EvaluationTarget.of_file(tmp_path / "random.safetensors")


UNIT = {"a": 1}


def part(path: Path, start: int, count: int, classes: int = 3) -> Path:
    generator = torch.Generator().manual_seed(start)
    logits = torch.randn(count, classes, generator=generator)
    index = np.arange(start, start + count)
    write_predictions(path, Part("made up", index, np.zeros(count, np.int64), logits.numpy()), UNIT)
    return path


def reduced(paths: list[Path], images: int) -> Predictions:
    return reduce_predictions((read_predictions(path, UNIT) for path in paths), images)


def test_parts_in_any_order_make_the_whole(tmp_path: Path) -> None:
    paths = [part(tmp_path / "b", 4, 6), part(tmp_path / "a", 0, 4)]
    whole = reduced(paths, 10)
    assert whole.logits.shape == (10, 3)
    assert torch.equal(
        torch.from_numpy(whole.logits[4:]), torch.randn(6, 3, generator=torch.Generator().manual_seed(4))
    )


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 4), (5, 5)], "1 of 10 samples were not predicted"),
        ([(0, 6), (4, 6)], "2 more than once"),
        ([(0, 9)], "1 of 10 samples were not predicted"),
        ([(0, 11)], r"outside 0 \.\. 9"),
        ([], "10 of 10 samples were not predicted"),
    ],
)
def test_no_number_unless_every_index_was_seen_once(spans: list[tuple[int, int]], message: str, tmp_path: Path) -> None:
    paths = [part(tmp_path / str(k), start, count) for k, (start, count) in enumerate(spans)]
    with pytest.raises(IntegrityError, match=message):
        reduced(paths, 10)


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="was replaced by another run with other settings"):
        read_predictions(part(tmp_path / "a", 0, 10), {"a": 2})


def test_logits_that_are_no_numbers_give_no_number() -> None:
    logits = np.zeros((4, 3), np.float32)
    logits[2, 1] = float("nan")
    with pytest.raises(IntegrityError, match="some logits are NaN or infinite"):
        reduce_predictions([Part("made up", np.arange(4), np.zeros(4, np.int64), logits)], 4)


def test_damaged_predictions_are_refused(tmp_path: Path) -> None:
    path = part(tmp_path / "a", 0, 10)
    assert is_valid(path, {"a": 1})
    assert not is_valid(path, {"a": 2})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not is_valid(path, {"a": 1})
    with pytest.raises(IntegrityError, match="does not match its hash"):
        reduced([path], 10)
    path.write_bytes(content[:-20])
    assert not is_valid(path, {"a": 1})
    assert not is_valid(tmp_path / "nothing", {"a": 1})


def test_counts_are_those_of_a_plain_loop(subject: EvaluationTarget, small_set: ImageSet, tmp_path: Path) -> None:
    record = evaluate(subject, small_set, CPU, output=tmp_path / "out")
    model = create_model("wrn_16_1", weights=subject.path).eval()
    with torch.inference_mode():
        logits = torch.cat([model(Normalize(subject.preprocessing)(b)) for b in small_set.images.split(8)])
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


def test_batch_size_changes_no_count(subject: EvaluationTarget, small_set: ImageSet) -> None:
    records = [evaluate(subject, small_set, ComputeSettings(torch.device("cpu"), batch_size=b)) for b in (7, 300)]
    assert records[0].prediction_sha256 == records[1].prediction_sha256


def test_resuming_computes_only_what_is_missing(
    subject: EvaluationTarget, small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = tmp_path / "out"
    batches: list[int] = []
    compute = Engine._logits

    def counted(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        if len(batches) == stop_after:
            raise KeyboardInterrupt
        batches.append(len(batch))
        return compute(self, key, network, batch)

    monkeypatch.setattr(Engine, "_logits", counted)
    stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        evaluate(subject, small_set, CPU, output=output)
    assert read_records(output) == []
    stop_after, batches[:] = -1, []
    resumed = evaluate(subject, small_set, CPU, output=output)
    assert sum(batches) == 300 - 7 * 32  # those ranges were whole
    assert "7 of 10 prediction files are there already" in capsys.readouterr().err
    assert (resumed.reused_files, resumed.duration_seconds) == (7, None)
    assert evaluate(subject, small_set, CPU).prediction_sha256 == resumed.prediction_sha256

    batches[:] = []
    evaluate(subject, small_set, CPU, output=output)
    assert batches == []
    (next((output / resumed.weights).glob("*/predictions-000000*"))).write_bytes(b"damaged")
    assert evaluate(subject, small_set, CPU, output=output).prediction_sha256 == resumed.prediction_sha256
    assert sum(batches) == 32
    batches[:] = []
    evaluate(subject, small_set, ComputeSettings(torch.device("cpu"), 8, channels_last=True), output=output)
    assert sum(batches) == 300  # other flags, other predictions
    assert len(read_records(output)) == 2


def test_what_is_not_strict_is_recorded(subject: EvaluationTarget, small_set: ImageSet) -> None:
    record = evaluate(subject, small_set, ComputeSettings(torch.device("cpu"), 64, amp="bf16", channels_last=True))
    assert record.precision == "bf16"
    assert not record.strict
    assert record.claims == ()
    assert record.flags == {"batch_size": 64, "channels_last": True, "amp": "bf16"}


def test_strict_arithmetic_is_put_back(subject: EvaluationTarget, small_set: ImageSet) -> None:
    seen = []
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark)
    model_type = type(create_model("wrn_16_1"))
    forward = model_type.forward

    def spying(self: Any, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.Tensor):  # else torch.fx only writes the operations down
            seen.append((matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic))
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_type, "forward", spying)
        cudnn.benchmark = True
        try:
            evaluate(subject, small_set, CPU)
            assert cudnn.benchmark
        finally:
            cudnn.benchmark = before[2]
    assert set(seen) == {("ieee", "ieee", False, True)}
    assert (matmul.fp32_precision, cudnn.conv.fp32_precision) == before[:2]


def test_requests_that_make_no_sense(subject: EvaluationTarget, small_set: ImageSet, tmp_path: Path) -> None:
    other = ImageSet("cifar100", "test", 100, small_set.images, small_set.labels, "1" * 64)
    with pytest.raises(UsageError, match="was trained on cifar10, not on cifar100"):
        evaluate(subject, other, CPU)
    resized = dataclasses.replace(subject, preprocessing=dataclasses.replace(subject.preprocessing, resize=40, crop=32))
    with pytest.raises(UsageError, match="resize 40, crop 32; cifar10 is evaluated on full images"):
        evaluate(resized, small_set, CPU)
    write_tensors(tmp_path / "plain.safetensors", random_state("wrn_16_1"), {})
    with pytest.raises(UsageError, match="does not say what it holds"):
        EvaluationTarget.of_file(tmp_path / "plain.safetensors")
    with pytest.raises(UsageError, match="`pyramidzoo convert"):
        EvaluationTarget.of_file(tmp_path / "in.pth")
    with pytest.raises(UsageError, match="no device is called 'gpu'"):
        pick_device("gpu")
    with pytest.raises(UnavailableError, match="CUDA devices are visible"):
        pick_device("cuda:99")


FAULTS = """
import resource, torch
from pyramidzoo.evaluation.environment import keep_memory
blocks = lambda: [torch.ones(10_000_000).sum() for _ in range(8)]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back, could = faults(), keep_memory()
blocks()
print(given_back, could, faults())
"""


def test_freed_memory_is_kept() -> None:
    """Forty megabytes, which glibc always gives back, are 9,766 pages, and the kernel clears each anew."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, could, kept = done.stdout.split()
    if could == "False" or int(given_back) < 40_000:
        pytest.skip("this C library, or the allocator in front of it, keeps memory anyway")
    assert int(kept) < int(given_back) // 2  # a block or two may still grow the heap


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_counts_of_the_cpu(subject: EvaluationTarget, small_set: ImageSet) -> None:
    on_cpu = evaluate(subject, small_set, CPU)
    on_gpu = evaluate(subject, small_set, ComputeSettings(torch.device("cuda"), 64))
    assert (on_gpu.top1_correct, on_gpu.top5_correct) == (on_cpu.top1_correct, on_cpu.top5_correct)


@pytest.mark.parametrize(("error", "shown"), [(OSError(13, "no", "f"), "f: no"), (OSError("odd"), "the system: odd")])
def test_what_the_system_refuses(error: OSError, shown: str) -> None:
    assert str(UnavailableError.of(error)) == shown


def test_files_of_one_name_keep_separate_records(
    subject: EvaluationTarget, small_set: ImageSet, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    description = Description.of(subject.path)
    assert description is not None
    path = tmp_path / "other" / subject.path.name
    write_tensors(path, random_state("wrn_16_1", seed=1), description.to_metadata())
    output = tmp_path / "out"
    first = evaluate(subject, small_set, CPU, output=output)
    second = evaluate(EvaluationTarget.of_file(path), small_set, CPU, output=output)
    assert first.prediction_sha256 != second.prediction_sha256
    assert read_records(output) == sorted([first, second], key=lambda record: record.weights)


def test_an_entry_must_be_loaded_with_its_own_tensors(subject: EvaluationTarget, small_set: ImageSet) -> None:
    entry = load_manifest().find("wrn_16_1.cifar10_ferles")
    posing = dataclasses.replace(subject, name=entry.id, entry=entry)
    with pytest.raises(IntegrityError, match=r"does not hold the tensors of wrn_16_1\.cifar10_ferles"):
        evaluate(posing, small_set, CPU)


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
def test_hostile_descriptions(field: str, value: Any, subject: EvaluationTarget, tmp_path: Path) -> None:
    description = Description.of(subject.path)
    assert description is not None
    content = json.loads(description.to_metadata()["pyramidzoo"])
    content[field] = (
        {**dict.fromkeys(("resize", "crop", "interpolation")), **value}
        if isinstance(value, dict) and (field == "preprocessing")
        else value
    )
    path = tmp_path / "hostile.safetensors"
    write_tensors(path, random_state("wrn_16_1"), {"pyramidzoo": json.dumps(content)})
    with pytest.raises(IntegrityError, match="its metadata do not describe a network"):
        EvaluationTarget.of_file(path)


@pytest.mark.parametrize("arguments", [{"depth": 20}, {"foo": 1}, {"drop_rate": 2}])
def test_arguments_that_do_not_fit_the_network(
    arguments: dict[str, Any], subject: EvaluationTarget, small_set: ImageSet, tmp_path: Path
) -> None:
    description = Description.of(subject.path)
    assert description is not None
    metadata = dataclasses.replace(description, arguments=arguments).to_metadata()
    write_tensors(tmp_path / "hostile.safetensors", random_state("wrn_16_1"), metadata)
    with pytest.raises(IntegrityError, match="its metadata do not describe a wrn_16_1"):
        evaluate(EvaluationTarget.of_file(tmp_path / "hostile.safetensors"), small_set, CPU)


@pytest.mark.parametrize(
    "change",
    [{"images": None}, {"images": 0}, {"images": "300"}, {"top1_correct": 301}, {"weights": []}, {"claims": [{}]}],
)
def test_damaged_records(
    change: dict[str, Any], subject: EvaluationTarget, small_set: ImageSet, tmp_path: Path
) -> None:
    evaluate(subject, small_set, CPU, output=tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("record.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="is not a record"):
        read_records(tmp_path / "out")
    path.write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match="is not a record"):
        read_records(tmp_path / "out")


def test_claims_need_the_preprocessing_of_the_entry() -> None:
    entry = load_manifest().find("resnet20_fattorib.cifar10")
    assert entry.tensors_sha256 is not None
    assert subjects._known_as(entry.tensors_sha256, entry.preprocessing) is entry
    other = dataclasses.replace(entry.preprocessing, mean=(0.5, 0.5, 0.5))
    assert subjects._known_as(entry.tensors_sha256, other) is None
    assert subjects._known_as("0" * 64, entry.preprocessing) is None
    assert subjects._known_as(entry.tensors_sha256, entry.preprocessing, entry.dataset) is entry
    assert subjects._known_as(entry.tensors_sha256, entry.preprocessing, "svhn") is None


def test_records_and_claims_of_another_data_set_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file says another data set than the entry that has its tensors, as `convert --force` allows."""
    entry = load_manifest().find("wrn_16_1.digits_zoo")
    path = tmp_path / "other.safetensors"
    tensors = read_tensors(packaged("bundled/wrn_16_1.digits_zoo.safetensors"))
    images = load_dataset("digits", "test", None)
    for dataset, recorded in [("digits", "exact"), ("other", "none")]:
        described = Description("wrn_16_1", {}, dataset, 10, entry.preprocessing, None, None)
        write_tensors(path, tensors, described.to_metadata())
        record = evaluate(EvaluationTarget.of_file(path), dataclasses.replace(images, name=dataset), CPU)
        assert record.recorded == recorded
