"""A trained network fills the one row of its recipe. Every other training of the network is shown and not counted."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import RunCommand

from pyramidzoo.catalog.answered_rows import describe_difference
from pyramidzoo.catalog.manifest import load_manifest, read_manifest
from pyramidzoo.catalog.published_tables import list_table_ids
from pyramidzoo.catalog.recipes import RECIPES, get_recipe
from pyramidzoo.catalog.training_record import Training, TrainingPart, make_training, read_training
from pyramidzoo.checkpoints.safetensors_file import read_metadata
from pyramidzoo.errors import IntegrityError
from pyramidzoo.evaluation.records import read_records
from pyramidzoo.evaluation.tables import OTHER_TRAINING, Measurement, make_table_rows, measurements_from_records

Json = dict[str, Any]

TRAINED = Path(__file__).parents[1] / "trained"
FILES = sorted(TRAINED.glob("*/*.safetensors"))
NAME = "preresnet20.hysts_mnist_cutout8.seed0"
FORMATS = ("human", "json", "csv", "markdown")


def make_training_by(name: str, **changes: Any) -> Training:
    """Make the record of a training by a recipe."""
    values: Json = {
        "recipe": name,
        "recipe_data": json.loads(json.dumps(get_recipe(name).as_data())),
        "overrides": {},
        "seed": 0,
        "precision": "fp32",
        "algorithms": "fixed",
        "accumulate": 1,
        "data_fingerprint": "0" * 64,
        "parts": (TrainingPart(1, "cpu", {"torch": "2.14.1"}),),
        "hours": None,
    }
    return Training(**{**values, **changes})


def make_measurement(architecture: str, training: Training, dataset: str) -> Measurement:
    """Make the measurement of a trained network."""
    return Measurement(
        weights=f"{architecture}.{training.recipe}.seed0@00000000",
        architecture=architecture,
        parameters=None,
        dataset=dataset,
        split="val" if dataset == "imagenet1k" else "test",
        images=10_000,
        wrong=500,
        recorded="none",
        strict=True,
        claims=(),
        training=training,
    )


def find_lines(*measurements: Measurement) -> list[Json]:
    """Return the lines of measured weights in all tables. Each also names its table."""
    manifest = load_manifest()
    return [
        {"table": table, **line}
        for table in list_table_ids()
        for line in make_table_rows(table, manifest, measurements)
        if line["ours"] is not None
    ]


def read_trained_record(name: str = NAME) -> Json:
    """Read the record of a network in `trained/` as JSON."""
    (path,) = TRAINED.glob(f"*/{name}.record.json")
    record: Json = json.loads(path.read_text(encoding="utf-8"))
    return record


def write_records(folder: Path, *records: Json) -> Path:
    """Write records into a folder, and return it."""
    for number, record in enumerate(records):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def read_table(text: str, format: str) -> list[Json]:
    """Read the lines of one table as a command printed it, except in the format for people."""
    if format == "json":
        lines: list[Json] = json.loads(text)
        return lines
    if format == "csv":
        return list(csv.DictReader(io.StringIO(text)))
    lines_of_table = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines_of_table]
    return [dict(zip(header, row, strict=True)) for row in rows]


# --- one trained network fills one row ---

ANSWERED = [
    (recipe.name, row, architecture) for recipe in RECIPES.values() for row, architecture in recipe.rows.items()
]


@pytest.mark.parametrize("name", sorted({name for name, _, _ in ANSWERED}))
def test_a_network_trained_by_a_recipe_fills_exactly_one_row(name: str) -> None:
    for recipe, row, architecture in ANSWERED:
        if recipe != name:
            continue
        measurement = make_measurement(architecture, make_training_by(name), get_recipe(name).dataset)
        lines = find_lines(measurement)
        (filled,) = [line for line in lines if line["counted"]]
        place, _, publisher = row.partition(" ")
        assert (filled["table"], filled["network"]) == (place.partition(":")[0], architecture)
        assert not publisher or all(verdict.startswith(publisher) for verdict in filled["claim"])
        assert all(verdict.endswith("trained by the recipe of this row") for verdict in filled["claim"])
        assert all("consistent" in verdict or "different" in verdict for verdict in filled["claim"])
        assert all(line["claim"].startswith((OTHER_TRAINING, "not counted: ")) for line in lines if line is not filled)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_network_in_trained_fills_exactly_its_row(path: Path, run_command: RunCommand) -> None:
    """The last word of a recipe's row says where. Every record is given, and each fills one row."""
    record = read_trained_record(path.stem)
    training = make_training(record["training"])
    assert training == read_training(read_metadata(path), path)
    measurements = measurements_from_records(read_records(TRAINED))
    assert len(measurements) == len(FILES)
    (filled,) = [line for line in find_lines(*measurements) if line["counted"] and line["weights"] == record["weights"]]
    (row,) = [row for row, network in get_recipe(training.recipe).rows.items() if network == record["architecture"]]
    published = [line for line in find_lines(*measurements) if line["counted"] and line["table"] == filled["table"]]
    assert filled["table"] == row.partition(":")[0]
    if filled["table"] == "H5":
        # Twelve files fill the first twelve rows, in the order of the rows.
        assert published.index(filled) + 1 == int(row.partition(":")[2])
        assert len(published) == 12
        assert "consistent" in filled["claim"][0]
    else:
        assert row == "F1:1"
        assert filled["claim"] == ["He et al. 2015 8.75: different, trained by the recipe of this row"]


def test_a_row_without_an_answer_still_says_why() -> None:
    """The line of the row stays, and the other training stands below it."""
    training = make_training_by("hysts_mnist_cutout6")
    manifest = load_manifest()
    lines = make_table_rows("H5", manifest, [make_measurement("preresnet20", training, "mnist")])
    first, second = [line for line in lines if line["row"] == "ResNet-preact-20"]
    assert (first["weights"], first["ours"], first["counted"]) == ("no weights", None, None)
    assert (second["claim"], second["ours"], second["counted"]) == (
        "same network, other training: recipe hysts_mnist_cutout6",
        "5.00",
        False,
    )


def test_a_row_that_quotes_another_row_counts_nothing() -> None:
    lines = find_lines(make_measurement("pyramidnet110_a84", make_training_by("pyramidnet_cifar10"), "cifar10"))
    assert [(line["table"], line["counted"]) for line in lines] == [("P1", True), ("H1", False)]
    assert lines[1]["claim"] == "not counted: this row quotes row P1:4, and the number is counted there"


def test_two_publishers_of_one_row_are_answered_apart() -> None:
    for name, publisher, other in (("hysts_wrn_cifar10", "hysts", "paper"), ("wrn_cifar10", "WRN authors", "hysts")):
        (filled,) = [
            line
            for line in find_lines(make_measurement("wrn_28_10", make_training_by(name), "cifar10"))
            if line["counted"]
        ]
        assert filled["claim"][0].startswith(publisher)
        assert not any(verdict.startswith(other) for verdict in filled["claim"])


# --- what fills no row ---

# The changes to the record of a network of row H5:3, and what its lines say.
NO_ANSWERS: dict[str, tuple[Json, str]] = {
    "an override": ({"overrides": {"epochs": 2}}, "recipe hysts_mnist_cutout8, epochs=2"),
    "an override of something else": ({"overrides": {"ema": 0.9}}, "recipe hysts_mnist_cutout8, ema=0.9"),
    "another recipe": (
        {"recipe": "quick_mnist", "recipe_data": json.loads(json.dumps(get_recipe("quick_mnist").as_data()))},
        "recipe quick_mnist",
    ),
    "a recipe that does not exist": ({"recipe": "mine"}, "recipe mine, no recipe has this name"),
    "the name of another recipe": (
        {"recipe": "hysts_mnist_cutout6"},
        "recipe hysts_mnist_cutout6, not the recipe's cutout, name",
    ),
    "a changed setting": (
        {"recipe_data": {**json.loads(json.dumps(get_recipe("hysts_mnist_cutout8").as_data())), "weight_decay": 5e-4}},
        "recipe hysts_mnist_cutout8, not the recipe's weight_decay",
    ),
    "batches in parts": ({"accumulate": 2}, "recipe hysts_mnist_cutout8, each batch in 2 parts"),
}


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_another_training_fills_no_row(case: str, tmp_path: Path, run_command: RunCommand) -> None:
    changes, words = NO_ANSWERS[case]
    record = read_trained_record()
    record["training"] |= changes
    folder = write_records(tmp_path, record)
    lines = run_command("tables", "--records", folder, "--format", "json").json()
    shown = [line for line in lines if line["weights"] == record["weights"]]
    assert {line["counted"] for line in shown} == {False}
    assert {line["claim"] for line in shown} == {f"{OTHER_TRAINING}: {words}"}
    # All rows of this network and dataset: the first twelve of H5.
    assert [line["table"] for line in shown] == ["H5"] * 12
    for format in FORMATS:
        text = run_command("tables", "H5", "--records", folder, "--format", format).out
        assert text.count(f"{OTHER_TRAINING}: {words}") == 12
        if format != "human":
            mine = [line for line in read_table(text, format) if line["weights"] == record["weights"]]
            assert {(line["counted"], line["ours"]) for line in mine} in ({(False, "0.38")}, {("no", "0.38")})


def test_another_architecture_fills_no_row(tmp_path: Path, run_command: RunCommand) -> None:
    """wrn_16_1 has no row of MNIST. preresnet50 has rows there, but none of the recipe."""
    for architecture, tables in (("wrn_16_1", ["Z"]), ("preresnet50", ["H5", "H5"])):
        record = {**read_trained_record(), "architecture": architecture}
        folder = write_records(tmp_path / architecture, record)
        lines = run_command("tables", "--records", folder, "--format", "json").json()
        shown = [line for line in lines if line["weights"] == record["weights"]]
        assert [line["table"] for line in shown] == tables
        assert not any(line["counted"] for line in shown)
        if tables != ["Z"]:
            assert {line["claim"] for line in shown} == {f"{OTHER_TRAINING}: recipe hysts_mnist_cutout8"}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_the_answer_and_the_others(format: str, run_command: RunCommand) -> None:
    text = run_command("tables", "H5", "--records", TRAINED, "--format", format).out
    assert text.count("trained by the recipe of this row") == 12
    # For people, the lines of networks that are counted in another row of the table are left out.
    assert text.count(OTHER_TRAINING) == (0 if format == "human" else 12 * 11)
    assert ("132 lines are left out" in text) == (format == "human")
    assert text.count("hysts_mnist_cutout8, seed 0") == (1 if format == "human" else 12)
    if format != "human":
        lines = read_table(text, format)
        counted = [line for line in lines if line["counted"] in (True, "yes")]
        assert [line["training"].partition(",")[0] for line in counted] == [
            name for name, row, network in ANSWERED if row.startswith("H5:") and network == "preresnet20"
        ]


def test_an_override_with_the_value_of_the_recipe_changes_nothing() -> None:
    harmless: list[dict[str, Any]] = [{"epochs": 40}, {"milestones": []}, {"notes": ["words decide nothing"]}]
    for overrides in harmless:
        assert describe_difference(make_training_by("hysts_mnist", overrides=overrides)) is None
    argument = {"arguments.drop_rate": 0.3}
    assert describe_difference(make_training_by("wrn_cifar10_dropout", overrides=argument)) is None
    assert describe_difference(make_training_by("wrn_cifar10", overrides=argument)) == "arguments.drop_rate=0.3"
    for override in ({"epochs": 41}, {"epochs": "40"}, {"arguments": "words"}, {"preprocessing": None}):
        assert describe_difference(make_training_by("hysts_mnist", overrides=override)) is not None
    changed = make_training_by("hysts_mnist", overrides={"epochs": 40})
    changed = dataclasses.replace(changed, recipe_data={**changed.recipe_data, "epochs": 2})
    assert describe_difference(changed) == "not the recipe's settings"


def test_precision_and_devices_are_no_difference() -> None:
    training = make_training_by("hysts_mnist", precision="bf16", algorithms="fastest", seed=7)
    assert describe_difference(training) is None


def test_what_is_not_strict_is_not_counted(tmp_path: Path, run_command: RunCommand) -> None:
    record = {**read_trained_record(), "precision": "bf16"}
    lines = run_command("tables", "H5", "--records", write_records(tmp_path, record), "--format", "json").json()
    assert not any(line["counted"] for line in lines)
    assert [line["claim"] for line in lines].count("not judged") == 1


def test_weights_without_a_training_have_no_new_columns(run_command: RunCommand) -> None:
    lines = run_command("tables", "F1", "--format", "json").json()
    assert not any({"training", "counted"} & line.keys() for line in lines)


# --- file, record and manifest hold the training ---


@pytest.fixture(scope="module")
def trained_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was trained for two epochs on the digits."""
    from pyramidzoo import cli

    folder = tmp_path_factory.mktemp("trained")
    arguments = ["wrn_16_1", "--epochs", "2", "--seed", "3", "--output", str(folder), "--device", "cpu"]
    assert cli.main(["train", *arguments]) == 0
    return folder / "wrn_16_1.digits.safetensors"


def test_a_record_holds_the_training_of_its_file(trained_file: Path, tmp_path: Path, run_command: RunCommand) -> None:
    document = run_command("evaluate", trained_file, "--output", tmp_path, "--format", "json").json()
    (record,) = read_records(tmp_path)
    training = record.training
    assert training is not None
    assert document["records"][0]["training"] == json.loads(json.dumps(training.to_json()))
    assert (training.recipe, training.seed, training.precision) == ("digits", 3, "fp32")
    assert training.overrides == {}
    assert training.recipe_data["epochs"] == 2
    with trained_file.with_suffix(".csv").open(newline="") as stream:
        seconds = [float(line["seconds"]) for line in csv.DictReader(stream)]
    assert len(seconds) == 2
    assert training.hours == pytest.approx(sum(seconds) / 3600, abs=5e-5)
    assert training.parts[0].versions["torch"]
    (line,) = run_command("tables", "Z", "--records", tmp_path, "--format", "json").json()
    assert (line["training"], line["counted"]) == ("digits, seed 3", None)


def test_a_record_of_weights_of_authors_has_no_such_field(tmp_path: Path, run_command: RunCommand) -> None:
    run_command("evaluate", "wrn_16_1.digits", "--output", tmp_path)
    (path,) = tmp_path.rglob("record.json")
    assert "training" not in json.loads(path.read_text())


def test_info_shows_the_training_of_a_file(trained_file: Path, run_command: RunCommand) -> None:
    facts = run_command("info", trained_file, "--format", "json").json()
    assert make_training(facts["training"]) == read_training(read_metadata(trained_file), trained_file)
    assert "recipe digits, seed 3, fp32, on cpu" in " ".join(run_command("info", trained_file).out.split())


@pytest.mark.parametrize("change", ["no log", "the log of another training", "no numbers"])
def test_hours_are_unknown_without_the_log(change: str, trained_file: Path, tmp_path: Path) -> None:
    path = tmp_path / trained_file.name
    shutil.copy(trained_file, path)
    log = trained_file.with_suffix(".csv").read_text()
    if change != "no log":
        lines = log.splitlines()
        text = "\n".join(lines[:-1]) if change == "the log of another training" else "epoch,seconds\n2,long"
        path.with_suffix(".csv").write_text(text)
    training = read_training(read_metadata(path), path)
    assert training is not None
    assert training.hours is None
    path.with_suffix(".csv").write_text(log)
    known = read_training(read_metadata(path), path)
    assert known is not None
    assert known.hours is not None


def rewrite_metadata(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a trained file with other entries in the metadata of its training."""
    from safetensors.torch import load_file, save_file

    metadata = read_metadata(source)
    history = json.loads(metadata["training"])
    metadata["training"] = json.dumps({**history, **changes})
    save_file(load_file(source), target, metadata)
    return target


def test_overrides_and_hours_are_read_from_a_file(trained_file: Path, tmp_path: Path) -> None:
    run = json.loads(read_metadata(trained_file)["training"])["run"]
    for changes in ({"overrides": {"epochs": 2}}, {"run": {**run, "overrides": {"epochs": 2}}}):
        path = rewrite_metadata(trained_file, tmp_path / "mine.safetensors", hours=0.25, **changes)
        training = read_training(read_metadata(path), path)
        assert training is not None
        assert (training.overrides, training.hours) == ({"epochs": 2}, 0.25)
        assert "overrides" not in training.recipe_data
        assert training.describe().startswith("recipe digits, epochs=2 instead of the recipe's, seed 3, fp32, on cpu")
        assert training.describe().endswith(", 0.2 hours")


def test_the_overrides_of_a_command_are_in_its_record(tmp_path: Path, run_command: RunCommand) -> None:
    options = ("--set", "epochs=1", "learning_rate=0.05", "--output", tmp_path, "--device", "cpu")
    assert run_command("train", "wrn_16_1", *options).code == 0
    (path,) = tmp_path.glob("*.safetensors")
    run_command("evaluate", path, "--output", tmp_path / "records")
    (record,) = read_records(tmp_path / "records")
    assert record.training is not None
    assert record.training.overrides == {"epochs": 1, "learning_rate": 0.05}
    assert describe_difference(record.training) == "epochs=1, learning_rate=0.05"


@pytest.mark.parametrize("changes", [{"run": {}}, {"run": None}, {"computed": []}, {"computed": 1}, {"hours": "long"}])
def test_damaged_metadata_are_named(changes: Json, trained_file: Path, tmp_path: Path, run_command: RunCommand) -> None:
    path = rewrite_metadata(trained_file, tmp_path / "mine.safetensors", **changes)
    with pytest.raises(IntegrityError, match=r"mine.safetensors: its metadata do not describe its training"):
        read_training(read_metadata(path), path)
    for command in ("info", "evaluate"):
        assert run_command(command, path).code == 4


def test_a_record_with_a_damaged_training_is_refused(tmp_path: Path, run_command: RunCommand) -> None:
    record = read_trained_record()
    for changes in ({"seed": "0"}, {"parts": 1}, {"hours": -1}, {"unknown": 1}, {"data_fingerprint": "x"}):
        folder = tmp_path / next(iter(changes))
        write_records(folder, {**record, "training": {**record["training"], **changes}})
        assert run_command("tables", "--records", folder).code == 4


def write_manifest(path: Path, training: Any) -> Path:
    """Write a manifest of one entry with this training."""
    own = json.loads((Path(__file__).parents[1] / "weights_manifest.json").read_text(encoding="utf-8"))
    entry = {**own["weights"]["wrn_16_1.digits_zoo"], "training": training}
    path.write_text(json.dumps({"format": 1, "weights": {"wrn_16_1.digits_zoo": entry}}), encoding="utf-8")
    return path


def test_an_entry_of_the_manifest_holds_a_training(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training_by("digits", hours=0.5)
    content = json.loads(json.dumps(training.to_json()))
    path = write_manifest(tmp_path / "manifest.json", content)
    entry = read_manifest(path).entries["wrn_16_1.digits_zoo"]
    assert entry.training == training
    monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(path))
    assert run_command("info", "wrn_16_1.digits_zoo", "--format", "json").json()["training"] == content
    page = " ".join(run_command("info", "wrn_16_1.digits_zoo").out.split())
    assert "training recipe digits, seed 0, fp32, on cpu (torch 2.14.1), 0.5 hours" in page
    (line,) = run_command("tables", "Z", "--format", "json").json()
    assert line["training"] == "digits, seed 0"
    document = run_command("evaluate", "wrn_16_1.digits_zoo", "--format", "json").json()
    assert document["records"][0]["training"] == content


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": "0"}, "seed: '0' is not of the type int"),
        ({"parts": []}, "parts: at least one device"),
        ({"parts": [{"device": "cpu"}]}, "TrainingPart lacks"),
        ({"more": 1}, "Training lacks"),
        ({"accumulate": 0}, "accumulate is 0"),
    ],
)
def test_a_damaged_training_in_the_manifest_is_named(changes: Json, words: str, tmp_path: Path) -> None:
    content = json.loads(json.dumps(make_training_by("digits").to_json())) | changes
    with pytest.raises(IntegrityError, match=rf"wrn_16_1.digits_zoo: training: {words}"):
        read_manifest(write_manifest(tmp_path / "manifest.json", content))


def test_a_training_is_words_or_a_record(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"wrn_16_1.digits_zoo: training: 3 is neither words nor the record"):
        read_manifest(write_manifest(tmp_path / "manifest.json", 3))
