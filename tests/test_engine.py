"""The ways to compute beside strict ones: exact shapes, tensors given to what was compiled, flips against strict."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import operator
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
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
from pyramidzoo.catalog.manifest import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data.datasets import ImageSet, ReaderOptions
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import engine, workers
from pyramidzoo.evaluation.engine import ComputeSettings, Engine
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load
from pyramidzoo.evaluation.harness import evaluate, plan, strictly, work
from pyramidzoo.evaluation.metrics import flips, prediction_sha256
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.evaluation.workers import Worker, evaluate_all
from pyramidzoo.factory import create_model
from pyramidzoo.inference._layers import add_into_channels
from pyramidzoo.weights.cache import raise_if_cancelled

CPU = torch.device("cpu")
STRICT = ComputeSettings(CPU, 64)
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def subject_of(path: Path, seed: int = 0, architecture: str = "wrn_16_1") -> EvaluationTarget:
    described = Description(architecture, {}, "cifar10", 10, PREPROCESSING, None, None)
    write_tensors(path, random_state(architecture, seed=seed), described.to_metadata())
    return EvaluationTarget.of_file(path)


@pytest.fixture
def subjects(tmp_path: Path) -> list[EvaluationTarget]:
    return [subject_of(tmp_path / f"random{seed}.safetensors", seed) for seed in (0, 1)]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """In the place of the compiler: shapes that a network was compiled for. What it makes is the network itself."""
    shapes: list[tuple[int, ...]] = []

    def compiled(network: nn.Module, batch: torch.Tensor) -> nn.Module:
        shapes.append(tuple(batch.shape))
        return network

    monkeypatch.setattr(engine, "_compiled", compiled)
    return shapes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "int8"}, "no precision is called 'int8'; fp32, tf32, bf16, fp16 are"),
        ({"precision": "bf16", "amp": "fp16"}, "autocast takes a plain fp32 network; leave out --amp, or"),
        ({"optimized": True, "amp": "bf16"}, "autocast takes a plain fp32 network"),
        ({"optimized": True, "channels_last": True}, "has the memory layout that suits it; leave out --channels-last"),
        ({"precision": "tf32"}, "--precision tf32 is for CUDA devices, not for cpu"),
        ({"cuda_graph": True}, "--cuda-graph is for CUDA devices, not for cpu"),
        ({"precision": "tf32", "compiled": True}, "refuses how TF32 is turned on here; leave out one of them"),
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
    subjects: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    traced: list[Any],
) -> None:
    strict = evaluate(subjects[0], small_set, STRICT)
    record = evaluate(
        subjects[0], small_set, ComputeSettings(CPU, 64, **settings), output=tmp_path / "out", compare=True
    )
    assert (record.precision, record.strict, record.claims) == (precision, False, ())
    assert record.flags == {"batch_size": 64, "channels_last": False, "amp": None} | flag
    assert record.against_strict is not None
    assert record.against_strict.prediction_sha256 == strict.prediction_sha256
    moved = record.against_strict.moved
    assert record.top1_correct - strict.top1_correct == record.against_strict.gained - record.against_strict.lost
    assert (record.prediction_sha256 == strict.prediction_sha256) == (not moved)
    difference = record.against_strict.largest_difference
    # eight bits of mantissa against twenty-four: what is far from either bound did not compute what it says
    assert 1e-4 < difference < 0.2 if precision == "bf16" else difference < 1e-5
    both = read_records(tmp_path / "out")
    assert sorted(kept.strict for kept in both) == [False, True]
    assert record in both
    assert strict.prediction_sha256 in {kept.prediction_sha256 for kept in both if kept.strict}


def test_the_strict_evaluation_is_not_compared_with_itself(
    subjects: list[EvaluationTarget], small_set: ImageSet
) -> None:
    with pytest.raises(UsageError, match="this is the strict evaluation itself"):
        evaluate(subjects[0], small_set, STRICT, compare=True)
    loose = ComputeSettings(CPU, 7, precision="bf16", reading=ReaderOptions(3, tensor_resize=True))
    assert strictly(loose) == ComputeSettings(CPU, 7, reading=ReaderOptions(3))


def test_flips_are_counted_and_listed() -> None:
    strict = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    other = np.eye(4, dtype=np.float32)[[0, 2, 1, 2, 0]]
    found = flips(strict, other * 0.5, np.array([0, 1, 1, 0, 0]))
    assert found.moved == ((1, 1, 1, 2), (2, 1, 2, 1), (3, 0, 3, 2))
    assert (found.lost, found.gained, found.largest_difference) == (1, 1, 1.0)
    assert found.prediction_sha256 == prediction_sha256(strict)


def test_every_batch_has_one_shape_where_that_matters(
    subjects: list[EvaluationTarget],
    small_set: ImageSet,
    traced: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """300 images in batches of 128: the last one has 44, is filled up, and gives 44 predictions."""
    seen = []
    forward = Engine._logits

    def spying(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return forward(self, key, network, batch)

    monkeypatch.setattr(Engine, "_logits", spying)
    plain = evaluate(subjects[0], small_set, ComputeSettings(CPU, 128))
    assert seen == [128, 128, 44]
    seen.clear()
    record = evaluate(subjects[0], small_set, ComputeSettings(CPU, 128, compiled=True))
    assert seen == [128] * 3
    assert traced == [(128, 3, 32, 32)]
    assert record.prediction_sha256 == plain.prediction_sha256


@pytest.mark.parametrize("optimized", [False, True])
def test_what_was_compiled_serves_other_weights_of_the_network(
    optimized: bool,
    subjects: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    traced: list[tuple[int, ...]],
) -> None:
    other = subject_of(tmp_path / "other.safetensors", architecture="resnet20")
    settings = ComputeSettings(CPU, 64, optimized=optimized, compiled=True)
    alone = {s.name: evaluate(s, small_set, settings).prediction_sha256 for s in (*subjects, other)}
    assert len(set(alone.values())) == 3
    traced.clear()
    order = [*subjects, subjects[0], other, subjects[1]]
    planned = partial(plan, engine=Engine(settings))
    results = evaluate_all([s.name for s in order], lambda k: load(order[k], small_set), planned, Worker())
    assert [getattr(r, "prediction_sha256", r) for r in results] == [alone[s.name] for s in order]
    assert len(traced) == 3  # of one kind, of the other, and of the first again


def test_the_loaded_network_stays_what_it_was(
    subjects: list[EvaluationTarget], small_set: ImageSet, traced: list[tuple[int, ...]]
) -> None:
    """What is compiled has tensors of its own: those of other weights are written over it."""
    engine_ = Engine(ComputeSettings(CPU, 64, compiled=True))
    first, second = (load(s, small_set) for s in subjects)
    kept = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    for loaded in (first, second):
        job = plan(loaded, engine_)
        work(job, job.units)
    assert all(torch.equal(kept[name], tensor) for name, tensor in first.model.state_dict().items())


def test_everything_happens_on_the_device_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams, events and graphs of PyTorch are those of the current device, which is the first one otherwise."""
    current: list[object] = []

    @contextlib.contextmanager
    def device(wanted: object) -> Iterator[None]:
        current.append(wanted)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    second = torch.device("cuda", 1)
    with Engine(ComputeSettings(second)).arithmetic():
        assert current == [second]
    assert current == []
    with Engine(STRICT).arithmetic():
        assert current == []


def test_compiling_does_not_end_after_some_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch compiles one function for eight networks, and computes the ninth as it is, without a word."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    engine_ = Engine(ComputeSettings(CPU, 2, compiled=True))
    model = create_model("wrn_16_1").eval()
    for width in range(10):
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        with engine_.running(engine_.form(model, width), 2 + width) as run:
            assert len(run(torch.zeros(2, 3, 32, 32))) == 2
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


def test_both_are_computed_in_batches_of_one_size(
    subjects: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compute = Engine._logits

    def cramped(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        if self.settings.precision == "fp32" and len(batch) > 20:
            raise torch.OutOfMemoryError
        return compute(self, key, network, batch)

    monkeypatch.setattr(Engine, "_logits", cramped)
    monkeypatch.setattr(engine, "_may_run_out", lambda device: True)
    evaluate(subjects[0], small_set, ComputeSettings(CPU, 64, precision="bf16"), output=tmp_path, compare=True)
    assert [record.flags["batch_size"] for record in read_records(tmp_path)] == [16, 16]


def test_channels_last_leaves_strict_arithmetic_alone(subjects: list[EvaluationTarget], small_set: ImageSet) -> None:
    loaded = load(subjects[0], small_set)
    loose, strict = Engine(ComputeSettings(CPU, 64, channels_last=True)), Engine(STRICT)
    images = torch.randn(8, 3, 32, 32)
    found = []
    for engine_ in (strict, loose, strict):
        with engine_.running(engine_.form(loaded.model, ""), 64) as run:
            found.append(run(images))
    assert torch.equal(found[0], found[2])


@pytest.mark.slow
def test_the_compiler_itself(subjects: list[EvaluationTarget], small_set: ImageSet) -> None:
    strict = [evaluate(s, small_set, STRICT) for s in subjects]
    engine_ = Engine(ComputeSettings(CPU, 64, optimized=True, compiled=True))
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    results = list(
        evaluate_all(
            [s.name for s in subjects],
            lambda position: load(subjects[position], small_set),
            lambda loaded: plan(loaded, engine_),
            Worker(),
        )
    )
    assert [getattr(r, "prediction_sha256", r) for r in results] == [r.prediction_sha256 for r in strict]
    assert counted["unique_graphs"] == before + 1


def test_a_compiler_that_fails(
    subjects: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(network: nn.Module, **_: object) -> object:
        def program(batch: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no working C++ compiler was found\n\nmore")

        return program

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(
        UnavailableError, match=r"torch.compile failed \(no working C\+\+ compiler was found\); it needs"
    ):
        evaluate(subjects[0], small_set, ComputeSettings(CPU, 64, compiled=True))


def test_the_batch_size_is_found_once(
    subjects: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    forward = Engine._logits

    def cramped(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        tried.append(len(batch))
        if len(batch) > 20:
            raise torch.OutOfMemoryError
        return forward(self, key, network, batch)

    monkeypatch.setattr(Engine, "_logits", cramped)
    monkeypatch.setattr(engine, "_may_run_out", lambda device: True)
    engine_ = Engine(STRICT)
    jobs = [plan(load(s, small_set), engine_) for s in subjects]
    assert tried == [64, 32, 16]
    assert [job.batch_size for job in jobs] == [16, 16]


def test_a_network_without_room_on_the_device(
    subjects: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: nn.Module, *arguments: object, **options: object) -> nn.Module:
        raise torch.OutOfMemoryError

    loaded = load(subjects[0], small_set)
    monkeypatch.setattr(type(loaded.model), "to", full)
    job = plan(loaded, Engine(STRICT))
    with pytest.raises(UnavailableError, match="cpu has no memory for this network"):
        work(job, job.units)


# --- loading ahead ---


def test_the_next_weights_are_loaded_meanwhile() -> None:
    """Not more than one ahead, in order, each failure where it belongs."""
    begun: list[int] = []
    second = threading.Event()

    def loading(position: int) -> Any:
        begun.append(position)
        if position == 1:
            second.set()
        if position == 2:
            raise IntegrityError("damaged")
        return position

    coming = workers._ahead(loading, 4)
    first = next(coming)
    assert first.result() == 0
    assert second.wait(10)
    time.sleep(0.05)
    assert begun == [0, 1]
    found: list[Future[Any]] = list(coming)
    assert [future.exception() is None for future in found] == [True, False, True]
    with pytest.raises(IntegrityError, match="damaged"):
        found[1].result()
    assert begun == [0, 1, 2, 3]


def test_a_download_ahead_ends_with_the_command() -> None:
    ended = threading.Event()

    def loading(position: int) -> Any:
        try:
            while position:
                raise_if_cancelled()
                time.sleep(0.005)
        finally:
            if position:
                ended.set()

    coming = workers._ahead(loading, 2)
    next(coming)
    coming.close()
    assert ended.is_set()


# --- the command ---


def test_the_command_lists_what_moved(capsys: Any) -> None:
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
    assert "nothing to compare it with" in capsys.readouterr().err


def test_an_optimized_network_predicts_the_same_digits(capsys: Any) -> None:
    assert cli.main(["evaluate", "--optimize", "--compare", "--format", "json"]) == 0
    for record in json.loads(capsys.readouterr().out)["records"]:
        assert record["recorded"] == "exact"
        assert record["flags"]["optimized"]
        assert record["against_strict"]["moved"] == []
        assert record["claims"] == []


def test_records_from_before_read_as_they_were(
    subjects: list[EvaluationTarget], small_set: ImageSet, tmp_path: Path
) -> None:
    record = evaluate(subjects[0], small_set, STRICT, output=tmp_path)
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
def test_ways_of_a_gpu(options: dict[str, Any], subjects: list[EvaluationTarget], small_set: ImageSet) -> None:
    settings = ComputeSettings(torch.device("cuda"), 64, **options)
    engine_ = Engine(settings)
    planned = partial(plan, engine=engine_, strict=Engine(ComputeSettings(torch.device("cuda"), 64)))
    names = [subject.name for subject in subjects]  # the second takes over the graph of the first
    for record in evaluate_all(names, lambda k: load(subjects[k], small_set), planned, Worker()):
        assert isinstance(record, Record)
        assert record.against_strict is not None
        assert len(record.against_strict.moved) <= (0 if "cuda_graph" in options else 3)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"amp": "bf16"}, {"channels_last": True}])
@pytest.mark.parametrize("name", ["resnet20", "resnet20_fattorib", "preresnet110_a", "pyramidnet110_a48"])
def test_sums_in_place_change_no_bit(name: str, options: dict[str, Any]) -> None:
    engine_, images = Engine(ComputeSettings(CPU, 3, **options)), torch.randn(3, 3, 9, 9)
    model = create_model(name)
    model.load_state_dict(random_state(name))
    form = engine_.form(model, name)
    called = [node.target for node in next(m for m in form.network.modules() if isinstance(m, GraphModule)).graph.nodes]
    assert add_into_channels in called
    assert not {nn.functional.pad, operator.add} & {*called}
    textbook = copy.deepcopy(model).eval()
    if engine_.settings.precision == "bf16":
        textbook = textbook.bfloat16()
    if engine_.settings.channels_last:
        textbook, images = (x.to(memory_format=torch.channels_last) for x in (textbook, images))
    given = images.clone()
    with engine_.running(form, 3) as run:
        found = run(given)
        assert torch.equal(found, textbook(images.to(textbook.conv1.weight.dtype)).float())
    assert torch.equal(given, images)
    assert found.isfinite().all()


def test_sums_are_in_place_where_it_saves_padding() -> None:
    padded, projected = create_model("resnet20"), create_model("resnet20_b")
    assert Engine(STRICT).form(projected, "").network is projected
    assert Engine(dataclasses.replace(STRICT, compiled=True)).form(padded, "").network is padded
    graph = Engine(STRICT).form(padded, "").network
    assert graph is not padded
    # no tensor is copied, not even by a move to another dtype
    assert graph.state_dict().keys() == padded.state_dict().keys()
    graph.double()
    for mine, its in zip(graph.state_dict().values(), padded.state_dict().values(), strict=True):
        assert mine.data_ptr() == its.data_ptr()
    # a hook is called, with maps that nobody overwrites
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    padded.layer2[0].bn2.register_forward_hook(lambda _, __, output: seen.append((output, output.clone())))
    with Engine(STRICT).running(Engine(STRICT).form(padded.float(), ""), 2) as run:
        run(torch.randn(2, 3, 8, 8))
    assert len(seen) == 1
    assert torch.equal(*seen[0])
