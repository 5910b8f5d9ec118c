"""Ways to compute that are not strict: fixed shapes, compiled programs, comparisons with strict predictions."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import operator
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_state
from torch import nn
from torch.fx import GraphModule

from pyramidzoo import cli
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data._splits import ImageSet, ReaderOptions
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import engine, programs
from pyramidzoo.evaluation.compute_settings import ComputeSettings, make_strict_settings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model
from pyramidzoo.evaluation.metrics import compare_predictions, prediction_sha256
from pyramidzoo.evaluation.planning import plan
from pyramidzoo.evaluation.predicting import predict
from pyramidzoo.evaluation.prefetching import ModelPrefetcher
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.evaluation.workers import Worker, evaluate_all
from pyramidzoo.factory import create_model
from pyramidzoo.inference._layers import add_into_channels
from pyramidzoo.weights.context import raise_if_cancelled

CPU = torch.device("cpu")
STRICT = ComputeSettings(CPU, 64)
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def write_target(path: Path, seed: int = 0, architecture: str = "wrn_16_1") -> EvaluationTarget:
    """Write a file with random weights."""
    description = Description(architecture, {}, "cifar10", 10, PREPROCESSING, None, None)
    write_tensors(path, random_state(architecture, seed=seed), description.to_metadata())
    return EvaluationTarget.from_file(path)


@pytest.fixture
def targets(tmp_path: Path) -> list[EvaluationTarget]:
    return [write_target(tmp_path / f"random{seed}.safetensors", seed) for seed in (0, 1)]


@pytest.fixture
def compiled_shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Replace the compiler: note the shape that it gets, and return the network itself."""
    shapes: list[tuple[int, ...]] = []

    def compiled(network: nn.Module, batch: torch.Tensor) -> nn.Module:
        shapes.append(tuple(batch.shape))
        return network

    monkeypatch.setattr(programs, "compile_network", compiled)
    return shapes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "int8"}, "no precision 'int8'.*fp32, tf32, bf16, fp16"),
        ({"precision": "bf16", "amp": "fp16"}, "autocast.*plain fp32.*leave out --amp, or --precision"),
        ({"optimized": True, "amp": "bf16"}, "autocast.*plain fp32.*leave out --amp, or .*--optimize"),
        ({"optimized": True, "channels_last": True}, "optimized.*memory layout.*leave out --channels-last"),
        ({"precision": "tf32"}, "--precision tf32 needs a CUDA device.*cpu"),
        ({"cuda_graph": True}, "--cuda-graph needs a CUDA device.*cpu"),
        ({"precision": "tf32", "compiled": True}, "compiler.*TF32.*leave out --compile or --precision tf32"),
    ],
)
def test_settings_that_do_not_go_together(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ComputeSettings(CPU, 8, **wrong)


@pytest.mark.parametrize(
    ("settings", "precision", "flag"),
    [
        ({"optimized": True}, "fp32", {"optimized": ["fold_bn", "fuse", "in_place", "channels_last"]}),
        ({"precision": "bf16"}, "bf16", {}),
        (
            {"precision": "bf16", "optimized": True},
            "bf16",
            {"optimized": ["fold_bn", "fuse", "in_place", "channels_last"]},
        ),
        ({"compiled": True}, "fp32", {"compiled": True}),
    ],
)
def test_what_is_faster_is_recorded_and_compared(
    settings: dict[str, Any],
    precision: str,
    flag: dict[str, Any],
    targets: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    compiled_shapes: list[Any],
) -> None:
    strict = evaluate(targets[0], small_set, STRICT)
    record = evaluate(
        targets[0], small_set, ComputeSettings(CPU, 64, **settings), output=tmp_path / "out", compare=True
    )
    assert (record.precision, record.strict, record.claims) == (precision, False, ())
    assert record.flags == {"batch_size": 64, "channels_last": False, "amp": None} | flag
    assert record.against_strict is not None
    assert record.against_strict.prediction_sha256 == strict.prediction_sha256
    moved = record.against_strict.moved
    assert record.top1_correct - strict.top1_correct == record.against_strict.gained - record.against_strict.lost
    assert (record.prediction_sha256 == strict.prediction_sha256) == (not moved)
    difference = record.against_strict.largest_difference
    # bf16 has 8 bits of mantissa, fp32 has 24. Another difference means that another precision was used.
    assert 1e-4 < difference < 0.2 if precision == "bf16" else difference < 1e-5
    both = read_records(tmp_path / "out")
    assert sorted(each.strict for each in both) == [False, True]
    assert record in both
    assert strict.prediction_sha256 in {each.prediction_sha256 for each in both if each.strict}


def test_the_strict_evaluation_is_not_compared_with_itself(
    targets: list[EvaluationTarget], small_set: ImageSet
) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        evaluate(targets[0], small_set, STRICT, compare=True)
    loose = ComputeSettings(CPU, 7, precision="bf16", reading=ReaderOptions(3, tensor_resize=True))
    assert make_strict_settings(loose) == ComputeSettings(CPU, 7, reading=ReaderOptions(3))


def test_changed_predictions_are_counted_and_listed() -> None:
    strict = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    other = np.eye(4, dtype=np.float32)[[0, 2, 1, 2, 0]]
    changes = compare_predictions(strict, other * 0.5, np.array([0, 1, 1, 0, 0]))
    assert changes.moved == ((1, 1, 1, 2), (2, 1, 2, 1), (3, 0, 3, 2))
    assert (changes.lost, changes.gained, changes.largest_difference) == (1, 1, 1.0)
    assert changes.prediction_sha256 == prediction_sha256(strict)


def test_a_compiled_network_gets_batches_of_one_shape(
    targets: list[EvaluationTarget],
    small_set: ImageSet,
    compiled_shapes: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last batch of 300 images has 44. It is filled up to 128, and gives 44 predictions."""
    batch_sizes = []
    compute_logits = Engine._compute_logits

    def note_batch_size(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(len(batch))
        return compute_logits(self, key, network, batch)

    monkeypatch.setattr(Engine, "_compute_logits", note_batch_size)
    plain = evaluate(targets[0], small_set, ComputeSettings(CPU, 128))
    assert batch_sizes == [128, 128, 44]
    batch_sizes.clear()
    record = evaluate(targets[0], small_set, ComputeSettings(CPU, 128, compiled=True))
    assert batch_sizes == [128] * 3
    assert compiled_shapes == [(128, 3, 32, 32)]
    assert record.prediction_sha256 == plain.prediction_sha256


@pytest.mark.parametrize("optimized", [False, True])
def test_a_compiled_network_is_used_for_other_weights_of_the_same_network(
    optimized: bool,
    targets: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    compiled_shapes: list[tuple[int, ...]],
) -> None:
    other = write_target(tmp_path / "other.safetensors", architecture="resnet20")
    settings = ComputeSettings(CPU, 64, optimized=optimized, compiled=True)
    alone = {s.name: evaluate(s, small_set, settings).prediction_sha256 for s in (*targets, other)}
    assert len(set(alone.values())) == 3
    compiled_shapes.clear()
    order = [*targets, targets[0], other, targets[1]]
    planned = partial(plan, engine=Engine(settings))
    results = evaluate_all([s.name for s in order], lambda k: load_model(order[k], small_set), planned, Worker())
    assert [getattr(r, "prediction_sha256", r) for r in results] == [alone[s.name] for s in order]
    assert len(compiled_shapes) == 3  # wrn_16_1, resnet20, and wrn_16_1 again


def test_a_compiled_network_leaves_the_loaded_one_unchanged(
    targets: list[EvaluationTarget], small_set: ImageSet, compiled_shapes: list[tuple[int, ...]]
) -> None:
    """The compiled copy has tensors of its own, because those of other weights overwrite them."""
    engine_ = Engine(ComputeSettings(CPU, 64, compiled=True))
    first, second = (load_model(s, small_set) for s in targets)
    before = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    for loaded in (first, second):
        job = plan(loaded, engine_)
        predict(job, job.units)
    assert all(torch.equal(before[name], tensor) for name, tensor in first.model.state_dict().items())


def test_the_device_of_the_settings_is_the_current_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch makes streams, events and graphs for the current device; without a setting it is the first one."""
    current: list[object] = []

    @contextlib.contextmanager
    def device(wanted: object) -> Iterator[None]:
        current.append(wanted)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    second = torch.device("cuda", 1)
    with Engine(ComputeSettings(second)).use_arithmetic():
        assert current == [second]
    assert current == []
    with Engine(STRICT).use_arithmetic():
        assert current == []


def test_the_tenth_network_is_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch compiles a function for eight networks. Without a reset it silently runs the ninth one as it is."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    engine_ = Engine(ComputeSettings(CPU, 2, compiled=True))
    model = create_model("wrn_16_1").eval()
    for width in range(10):
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        with engine_.open_program(engine_.prepare(model, width), 2 + width) as run:
            assert len(run(torch.zeros(2, 3, 32, 32))) == 2
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


def test_compared_evaluations_use_the_same_batch_size(
    targets: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compute_logits = Engine._compute_logits

    def fail_for_large_batches(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        if self.settings.precision == "fp32" and len(batch) > 20:
            raise torch.OutOfMemoryError
        return compute_logits(self, key, network, batch)

    monkeypatch.setattr(Engine, "_compute_logits", fail_for_large_batches)
    monkeypatch.setattr(engine, "_can_continue_after_out_of_memory", lambda device: True)
    evaluate(targets[0], small_set, ComputeSettings(CPU, 64, precision="bf16"), output=tmp_path, compare=True)
    assert [record.flags["batch_size"] for record in read_records(tmp_path)] == [16, 16]


def test_channels_last_leaves_strict_arithmetic_alone(targets: list[EvaluationTarget], small_set: ImageSet) -> None:
    loaded = load_model(targets[0], small_set)
    loose, strict = Engine(ComputeSettings(CPU, 64, channels_last=True)), Engine(STRICT)
    images = torch.randn(8, 3, 32, 32)
    logits = []
    for engine_ in (strict, loose, strict):
        with engine_.open_program(engine_.prepare(loaded.model, ""), 64) as compute:
            logits.append(compute(images))
    assert torch.equal(logits[0], logits[2])


@pytest.mark.slow
def test_the_compiler_itself(targets: list[EvaluationTarget], small_set: ImageSet) -> None:
    strict = [evaluate(s, small_set, STRICT) for s in targets]
    engine_ = Engine(ComputeSettings(CPU, 64, optimized=True, compiled=True))
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    results = list(
        evaluate_all(
            [s.name for s in targets],
            lambda position: load_model(targets[position], small_set),
            lambda loaded: plan(loaded, engine_),
            Worker(),
        )
    )
    assert [getattr(r, "prediction_sha256", r) for r in results] == [r.prediction_sha256 for r in strict]
    assert counted["unique_graphs"] == before + 1


def test_a_compiler_that_fails(
    targets: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(network: nn.Module, **_: object) -> object:
        def program(batch: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no working C++ compiler was found\n\nmore")

        return program

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(
        UnavailableError, match=r"torch.compile failed \(no working C\+\+ compiler was found\).*leave out --compile"
    ):
        evaluate(targets[0], small_set, ComputeSettings(CPU, 64, compiled=True))


def test_the_batch_size_that_fits_is_looked_for_once(
    targets: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    compute_logits = Engine._compute_logits

    def fail_for_large_batches(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        tried.append(len(batch))
        if len(batch) > 20:
            raise torch.OutOfMemoryError
        return compute_logits(self, key, network, batch)

    monkeypatch.setattr(Engine, "_compute_logits", fail_for_large_batches)
    monkeypatch.setattr(engine, "_can_continue_after_out_of_memory", lambda device: True)
    engine_ = Engine(STRICT)
    jobs = [plan(load_model(s, small_set), engine_) for s in targets]
    assert tried == [64, 32, 16]
    assert [job.batch_size for job in jobs] == [16, 16]


def test_a_network_without_room_on_the_device(
    targets: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: nn.Module, *arguments: object, **options: object) -> nn.Module:
        raise torch.OutOfMemoryError

    loaded = load_model(targets[0], small_set)
    monkeypatch.setattr(type(loaded.model), "to", full)
    job = plan(loaded, Engine(STRICT))
    with pytest.raises(UnavailableError, match=r"cpu.*no memory.*this network"):
        predict(job, job.units)


# --- loading ahead ---


def test_the_next_weights_are_loaded_ahead() -> None:
    """In order, and at most one ahead. A failure is raised for the weights that it belongs to."""
    started: list[int] = []
    second_started = threading.Event()

    def load(position: int) -> Any:
        started.append(position)
        if position == 1:
            second_started.set()
        if position == 2:
            raise IntegrityError("damaged")
        return position

    with ModelPrefetcher(load, 4) as prefetcher:
        load_next: Callable[[], Any] = prefetcher.load_next
        assert load_next() == 0
        assert second_started.wait(10)
        time.sleep(0.05)
        assert started == [0, 1]
        assert load_next() == 1
        with pytest.raises(IntegrityError, match="damaged"):
            load_next()
        assert load_next() == 3
    assert started == [0, 1, 2, 3]


def test_a_download_ahead_ends_with_the_command() -> None:
    ended = threading.Event()

    def load(position: int) -> Any:
        try:
            while position:
                raise_if_cancelled()
                time.sleep(0.005)
        finally:
            if position:
                ended.set()

    with ModelPrefetcher(load, 2) as prefetcher:
        prefetcher.load_next()
    assert ended.is_set()


# --- the command ---


def test_the_command_lists_changed_predictions(capsys: Any) -> None:
    options = ["--precision", "bf16", "--compare", "-b", "64"]
    code = cli.main(["evaluate", "resnet20.digits_zoo", *options, "--format", "json"])
    (record,) = json.loads(capsys.readouterr().out)["records"]
    against = record["against_strict"]
    assert code == (3 if against["moved"] else 0)
    labels = [label for _, label, _, _ in against["moved"]]
    assert against["lost"] == sum(
        before == label for label, (_, _, before, _) in zip(labels, against["moved"], strict=True)
    )
    assert cli.main(["evaluate", "resnet20.digits_zoo", *options]) == code
    assert (
        f"against strict {len(against['moved'])} predictions moved, {against['lost']} lost" in capsys.readouterr().out
    )
    assert cli.main(["evaluate", "resnet20.digits_zoo", "--compare"]) == 2
    assert "nothing to compare" in capsys.readouterr().err


def test_an_optimized_network_predicts_the_same_digits(capsys: Any) -> None:
    assert cli.main(["evaluate", "--optimize", "--compare", "--format", "json"]) == 0
    for record in json.loads(capsys.readouterr().out)["records"]:
        assert record["recorded"] == "exact"
        assert record["flags"]["optimized"]
        assert record["against_strict"]["moved"] == []
        assert record["claims"] == []


def test_older_records_without_a_comparison_can_be_read(
    targets: list[EvaluationTarget], small_set: ImageSet, tmp_path: Path
) -> None:
    record = evaluate(targets[0], small_set, STRICT, output=tmp_path)
    (path,) = tmp_path.rglob("record.json")
    content = json.loads(path.read_text())
    del content["against_strict"]
    path.write_text(json.dumps(content))
    assert read_records(tmp_path) == [dataclasses.replace(record, against_strict=None)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "options", [{"cuda_graph": True}, {"precision": "tf32"}, {"precision": "fp16", "optimized": True}]
)
def test_what_only_a_gpu_can_do(options: dict[str, Any], targets: list[EvaluationTarget], small_set: ImageSet) -> None:
    settings = ComputeSettings(torch.device("cuda"), 64, **options)
    engine_ = Engine(settings)
    planned = partial(plan, engine=engine_, strict_engine=Engine(ComputeSettings(torch.device("cuda"), 64)))
    names = [target.name for target in targets]  # The second target uses the graph of the first one.
    for record in evaluate_all(names, lambda k: load_model(targets[k], small_set), planned, Worker()):
        assert isinstance(record, Record)
        assert record.against_strict is not None
        assert len(record.against_strict.moved) <= (0 if "cuda_graph" in options else 3)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"amp": "bf16"}, {"channels_last": True}])
@pytest.mark.parametrize("name", ["resnet20", "resnet20_fattorib", "preresnet110_a", "pyramidnet110_a48"])
def test_sums_in_place_change_no_bit(name: str, options: dict[str, Any]) -> None:
    engine_, images = Engine(ComputeSettings(CPU, 3, **options)), torch.randn(3, 3, 9, 9)
    model = create_model(name)
    model.load_state_dict(random_state(name))
    prepared = engine_.prepare(model, name)
    graph = next(module for module in prepared.network.modules() if isinstance(module, GraphModule)).graph
    functions = {node.target for node in graph.nodes}
    assert add_into_channels in functions
    assert not {nn.functional.pad, operator.add} & functions
    textbook = copy.deepcopy(model).eval()
    if engine_.settings.precision == "bf16":
        textbook = textbook.bfloat16()
    if engine_.settings.channels_last:
        textbook = textbook.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    input_images = images.clone()
    with engine_.open_program(prepared, 3) as compute:
        logits = compute(input_images)
        assert torch.equal(logits, textbook(images.to(textbook.get_parameter("conv1.weight").dtype)).float())
    assert torch.equal(input_images, images), "the input must not be overwritten"
    assert logits.isfinite().all()


def test_sums_are_in_place_only_if_it_saves_padding() -> None:
    padded, projected = create_model("resnet20"), create_model("resnet20_b")
    assert Engine(STRICT).prepare(projected, "").network is projected
    assert Engine(dataclasses.replace(STRICT, compiled=True)).prepare(padded, "").network is padded
    graph = Engine(STRICT).prepare(padded, "").network
    assert graph is not padded
    # Both share their tensors, also after a change of the dtype.
    assert graph.state_dict().keys() == padded.state_dict().keys()
    graph.double()
    for tensor, original in zip(graph.state_dict().values(), padded.state_dict().values(), strict=True):
        assert tensor.data_ptr() == original.data_ptr()
    # A hook gets feature maps that nothing overwrites later.
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    padded.layer2[0].bn2.register_forward_hook(lambda _, __, output: seen.append((output, output.clone())))
    with Engine(STRICT).open_program(Engine(STRICT).prepare(padded.float(), ""), 2) as run:
        run(torch.randn(2, 3, 8, 8))
    assert len(seen) == 1
    assert torch.equal(*seen[0])
