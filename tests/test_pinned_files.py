"""Files that version 0.1.0 wrote are read, resumed and vouched for; what is written has the same keys and names.

The samples are in `tests/data/samples/`, the key sets in `tests/data/pinned/files.json`.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pinned import (
    SAMPLES,
    folder_hash,
    is_writing,
    names_in,
    read_tensors,
    run,
    same,
    seal,
    stable,
    start,
    tensors_sha256,
    type_of,
    unpack,
    write_sealed,
)

import pyramidzoo

DOCUMENT = "files"
CHECKED = ["cache", "converted", "predictions and record", "publish", "tables of records", "training"]
LAB = "wrn_16_1.cifar10_lab"
DIGITS = "wrn_16_1.digits_zoo"
TRAIN = ("train", "wrn_16_1", "--epochs", "2", "--format", "json", "--output")


def test_every_expectation_is_checked() -> None:
    if is_writing():
        pytest.skip("expectations are being written anew")
    assert sorted(names_in(DOCUMENT)) == CHECKED


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lab's manifest is in use; its checkpoint lies in the folder that is returned, which nobody is told of."""
    monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(SAMPLES / "manifest.json"))
    return unpack("lab.pth.xz", tmp_path / "origins" / "lab.pth").parent


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def layout_of(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file, their JSON opened, and its tensors: how many, and the first names."""
    metadata, tensors = read_tensors(path)
    opened = {}
    for name, text in metadata.items():
        value = json.loads(text) if text.startswith("{") else text
        opened[name] = stable(value, {}) if name != "content_sha256" else type_of(value)
    return {
        "metadata": opened,
        "number of tensors": len(tensors),
        "first tensors": sorted(tensors)[:4],
    }


# --- the cache and its sidecar ---


def test_a_converted_file_in_the_cache_is_used_and_vouched_for(lab: Path, tmp_path: Path) -> None:
    """The sample's bytes are right for the sample's sidecar: nothing is fetched, nothing changes."""
    folder = tmp_path / "cache" / "weights"
    path = unpack(f"cache/{LAB}.safetensors.xz", folder / f"{LAB}.safetensors")
    shutil.copy(SAMPLES / "cache" / f"{LAB}.json", folder)
    before = path.read_bytes()
    (row,) = run("verify", LAB, "--format", "json").json()
    assert (row["state"], row["path"]) == ("good", str(path))
    (row,) = run("fetch", LAB, "--format", "json").json()
    assert (row["from"], row["path"]) == ("cache", str(path))
    (row,) = run("list", LAB, "--format", "json").json()
    assert row["here"] == "cache"
    assert run("verify", "--all").code == 0
    model = pyramidzoo.create_model("wrn_16_1", weights="cifar10_lab")
    assert model.fc.bias[3].item() == (3 * 37 - 128) / 1024
    assert path.read_bytes() == before
    assert json.loads((folder / f"{LAB}.json").read_text()) == json.loads(
        (SAMPLES / "cache" / f"{LAB}.json").read_text()
    )


@pytest.mark.parametrize("key", ["sha256", "tensors_sha256", "origin"])
def test_the_sidecar_is_what_vouches(key: str, lab: Path, tmp_path: Path) -> None:
    """Each hash in it is looked at under its name: with another value the file is not taken as it is."""
    folder = tmp_path / "cache" / "weights"
    unpack(f"cache/{LAB}.safetensors.xz", folder / f"{LAB}.safetensors")
    noted = json.loads((SAMPLES / "cache" / f"{LAB}.json").read_text())
    (folder / f"{LAB}.json").write_text(json.dumps({**noted, key: "0" * 64}))
    assert run("verify", LAB).code == 4


def test_a_converted_file_without_its_sidecar_is_not_trusted(lab: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "weights"
    unpack(f"cache/{LAB}.safetensors.xz", folder / f"{LAB}.safetensors")
    assert run("verify", LAB).code == 4


def test_what_nobody_has_hashed_is_held_to_the_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the manifest has no hash, the file is known by what the sidecar noted of the first one that came."""
    manifest = json.loads((SAMPLES / "manifest.json").read_text())
    manifest["weights"][LAB]["origin"]["hash"] = None
    manifest["weights"][LAB]["tensors_sha256"] = None
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    unpack("lab.pth.xz", tmp_path / "origins" / "lab.pth")
    monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(tmp_path / "manifest.json"))
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "origins"))
    command = ("fetch", LAB, "--format", "json")
    assert run(*command).code == 5  # not known yet, and offline
    sidecar = tmp_path / "cache" / "weights" / f"{LAB}.json"
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    noted = json.loads((SAMPLES / "cache" / f"{LAB}.json").read_text())
    sidecar.write_text(json.dumps({**noted, "source_sha256": "0" * 64}))
    assert run(*command).code == 4  # another file was noted
    sidecar.write_text(json.dumps(noted))
    (row,) = run(*command).json()
    assert row["from"] == "origins"


def test_what_fetch_writes(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same checkpoint the same bytes, and a sidecar of the same keys."""
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(lab))
    (row,) = run("fetch", LAB, "--format", "json").json()
    folder = tmp_path / "cache"
    path = folder / "weights" / f"{LAB}.safetensors"
    sidecar = json.loads((folder / "weights" / f"{LAB}.json").read_text())
    observed = {
        "row": stable(row, {"TMP": tmp_path}),
        "files": files_of(folder),
        "sidecar": sidecar,
        "converted file": layout_of(path),
    }
    same(DOCUMENT, "cache", observed)
    assert path.read_bytes() == unpack(f"cache/{LAB}.safetensors.xz", tmp_path / "sample").read_bytes()
    assert sidecar == json.loads((SAMPLES / "cache" / f"{LAB}.json").read_text())
    assert sidecar["tensors_sha256"] == tensors_sha256(read_tensors(path)[1])


def test_what_convert_writes(lab: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    options = ("--layout", "zoo", "--arch", "wrn_16_1", "--dataset", "cifar10", "--output", output, "--format", "json")
    constants = ("--mean", ".2", ".3", ".4", "--std", ".1", ".2", ".3")
    (row,) = run("convert", lab / "lab.pth", *options, *constants).json()
    facts = run("info", output, "--format", "json").json()
    observed = {
        "row": stable(row, {"TMP": tmp_path}),
        "file": layout_of(output),
        "info": stable(facts, {"TMP": tmp_path}),
    }
    same(DOCUMENT, "converted", observed)


# --- predictions and records ---


def result_folder(output: Path) -> Path:
    """The only folder of results below an output folder."""
    (record,) = output.rglob("record.json")
    return record.parent


def test_what_evaluate_writes(tmp_path: Path) -> None:
    """Names, metadata, tensors and keys; the seal and the folder's name are those of the documented rules."""
    output = tmp_path / "results"
    run("evaluate", DIGITS, "--output", output, "--format", "json").json()
    folder = result_folder(output)
    first, second = sorted(folder.glob("predictions-*"))
    metadata, tensors = read_tensors(first)
    unit = json.loads(metadata["unit"])
    observed = {
        "path of the folder": str(folder.relative_to(output))[:-8] + "<hash>",
        "files": files_of(folder),
        "first": layout_of(first),
        "second": layout_of(second),
        "tensors": {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()},
        "record": stable(json.loads((folder / "record.json").read_text()), {}),
    }
    same(DOCUMENT, "predictions and record", observed)
    assert folder.name.endswith(f"-{folder_hash(unit)}")
    kept = {name: text for name, text in metadata.items() if name != "content_sha256"}
    assert seal(tensors, kept) == {"content_sha256": metadata["content_sha256"]}


@pytest.mark.parametrize("name", ["predictions-000000-000512", "predictions-000512-000899"])
def test_the_seal_of_the_samples_is_right(name: str) -> None:
    """So the tests below may seal a sample anew after they changed it."""
    metadata, tensors = read_tensors(SAMPLES / "predictions" / f"{name}.safetensors")
    kept = {key: text for key, text in metadata.items() if key != "content_sha256"}
    assert seal(tensors, kept) == {"content_sha256": metadata["content_sha256"]}


def test_evaluate_resumes_from_a_prediction_file(tmp_path: Path) -> None:
    """The sample's predictions are taken, not computed: ten labels that its first file is made to miss stay missed.

    Predictions of another machine or version are never taken, so the sample's two keys for these get today's values.
    """
    record = run("evaluate", DIGITS, "--format", "json").json()["records"][0]
    here = {"device": record["device"], "versions": record["versions"]}
    units = []
    for source in sorted((SAMPLES / "predictions").glob("predictions-*")):
        metadata, tensors = read_tensors(source)
        unit = {**json.loads(metadata["unit"]), **here}
        if unit["start"] == 0:
            right = (tensors["logits"].argmax(1) == tensors["label"]).nonzero().flatten()[:10]
            tensors["logits"][right] = torch.roll(tensors["logits"][right], 1, dims=1)
        units.append((source.name, unit, tensors))
    folder = tmp_path / DIGITS / f"digits-test-fp32-{folder_hash(units[0][1])}"
    for name, unit, tensors in units:
        text = json.dumps(unit, sort_keys=True, separators=(",", ":"))
        write_sealed(folder / name, tensors, {"unit": text})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    ran = run("evaluate", DIGITS, "--output", tmp_path, "--format", "json")
    found = json.loads(ran.out)["records"][0]
    assert (found["reused_files"], found["duration_seconds"]) == (2, None), ran.err
    assert found["wrong"] == record["wrong"] + 10
    assert ran.code == 3
    assert result_folder(tmp_path) == folder
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_prediction_file_is_computed_anew(tmp_path: Path) -> None:
    run("evaluate", DIGITS, "--output", tmp_path, "--format", "json").json()
    first = min(result_folder(tmp_path).glob("predictions-*"))
    metadata, tensors = read_tensors(first)
    tensors["logits"] = tensors["logits"] + 1
    from safetensors.torch import save_file

    save_file(tensors, first, metadata)  # with the old seal
    (record,) = run("evaluate", DIGITS, "--output", tmp_path, "--format", "json").json()["records"]
    assert (record["reused_files"], record["recorded"]) == (1, "exact")


def test_tables_read_records(tmp_path: Path) -> None:
    """Records as evaluate wrote them: strict, compared with strict, and with claims."""
    for name in ("predictions", "records/compared", "records/claims"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(SAMPLES / name / "record.json", tmp_path / name)
    rows = run("tables", "Z", "--records", tmp_path, "--format", "json").json()
    same(DOCUMENT, "tables of records", rows)


@pytest.mark.parametrize("key", ["format", "weights", "tensors_sha256", "top1_correct", "flags", "claims", "protocol"])
def test_keys_of_a_record_are_needed(key: str, tmp_path: Path) -> None:
    """Each is read under its present name."""
    record = json.loads((SAMPLES / "predictions" / "record.json").read_text())
    del record[key]
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert run("tables", "--records", tmp_path).code == 4


def test_old_records_may_lack_what_came_later(tmp_path: Path) -> None:
    record = json.loads((SAMPLES / "predictions" / "record.json").read_text())
    for key in ("manifest", "against_strict", "wrong", "top1_error", "top5_error", "top1_error_interval"):
        del record[key]
    (tmp_path / "record.json").write_text(json.dumps(record))
    (row,) = run("tables", "Z", "--records", tmp_path, "--format", "json").json()
    assert row["weights"] == DIGITS


def test_publish_reads_records(tmp_path: Path) -> None:
    """The measured result of a record stands in for the manifest's."""
    manifest = json.loads((SAMPLES / "manifest.json").read_text())
    manifest["weights"][DIGITS]["results"] = []
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRAMIDZOO_MANIFEST", str(tmp_path / "manifest.json"))
        command = ("publish", DIGITS, "--org", "lab", "--dry-run", "--output", tmp_path / "made", "--format", "json")
        assert run(*command).code == 2
        (row,) = run(*command, "--records", SAMPLES / "predictions").json()
    assert row["state"] == "prepared"


def test_what_publish_prepares(tmp_path: Path) -> None:
    run("publish", DIGITS, "--org", "lab", "--dry-run", "--output", tmp_path, "--format", "json").json()
    folder = tmp_path / DIGITS
    configuration = json.loads((folder / "config.json").read_text())
    for name in ("crop_mode", "custom_load", "fixed_input_size"):  # timm's own, which another version may leave out
        configuration["pretrained_cfg"].pop(name, None)
    card = (folder / "README.md").read_text()
    observed = {
        "files": files_of(tmp_path),
        "config": configuration,
        "weights": layout_of(folder / "model.safetensors"),
        "fields of the card": [
            line.partition(":")[0] for line in card.split("---")[1].splitlines() if line[:1].isalpha()
        ],
    }
    same(DOCUMENT, "publish", observed)


# --- training ---


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """After the first epoch, not from the start; the log keeps the line of the first epoch as it was."""
    checkpoint = unpack("training/wrn_16_1.digits.checkpoint.xz", tmp_path / "wrn_16_1.digits.checkpoint")
    shutil.copy(SAMPLES / "training" / "wrn_16_1.digits.csv", tmp_path)
    before = layout_of(checkpoint)
    ran = run(*TRAIN, tmp_path)
    (row,) = ran.json()
    assert "epoch 2/2" in ran.err
    assert "epoch 1/2" not in ran.err
    path = tmp_path / "wrn_16_1.digits.safetensors"
    log = (tmp_path / "wrn_16_1.digits.csv").read_text().splitlines()
    assert log[:2] == (SAMPLES / "training" / "wrn_16_1.digits.csv").read_text().splitlines()
    assert [int(line["epoch"]) for line in csv.DictReader(log)] == [1, 2]
    # where it goes on from is what was learned: from the start the loss of an epoch is 2.23, and of the second 2.04
    assert row["loss"] == pytest.approx(2.09, abs=0.1)
    observed = {
        "checkpoint": before,
        "files": files_of(tmp_path),
        "header of the log": log[0],
        "keys of the row": list(row),
        "result": layout_of(path),
    }
    story = observed["result"]["metadata"]["training"]
    story["computed"] = [list(part) for part in story["computed"]][:1]
    for name in ("loss", "test_error", "training_error"):
        story["last"][name] = "<number>"
    same(DOCUMENT, "training", observed)
    finished = path.read_bytes()
    again = run(*TRAIN, tmp_path)
    assert again.json() == [row]
    assert "epoch" not in again.err.replace("epochs", "")
    assert path.read_bytes() == finished
    assert run(*TRAIN, tmp_path, "--seed", "1").code == 2


def test_the_checkpoint_decides_every_bit(tmp_path: Path) -> None:
    """From the same checkpoint twice: the same bytes, on one machine. Another machine rounds otherwise."""
    for name in ("a", "b"):
        unpack("training/wrn_16_1.digits.checkpoint.xz", tmp_path / name / "wrn_16_1.digits.checkpoint")
        run(*TRAIN, tmp_path / name).json()
    a, b = ((tmp_path / name / "wrn_16_1.digits.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b


def test_a_finished_training_is_left_alone(tmp_path: Path) -> None:
    path = unpack("finished/wrn_16_1.digits.safetensors.xz", tmp_path / "wrn_16_1.digits.safetensors")
    shutil.copy(SAMPLES / "finished" / "wrn_16_1.digits.csv", tmp_path)
    before = path.read_bytes()
    ran = run(*TRAIN, tmp_path)
    (row,) = ran.json()
    metadata, _ = read_tensors(path)
    assert json.loads(metadata["training"])["last"] == {key: row[key] for key in row if key not in ("path", "log")}
    assert (path.read_bytes(), files_of(tmp_path)) == (before, ["wrn_16_1.digits.csv", "wrn_16_1.digits.safetensors"])


def test_an_interrupted_training_leaves_what_it_needs(tmp_path: Path) -> None:
    """A process of its own, which SIGTERM ends between two epochs; then the same command goes on."""
    with start("train", "wrn_16_1", "--epochs", "100", "--output", tmp_path, "--format", "json") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.terminate()
                break
        assert process.communicate(timeout=300)[0] == ""
    assert process.returncode == 130
    assert files_of(tmp_path) == ["wrn_16_1.digits.checkpoint", "wrn_16_1.digits.csv"]
    metadata, tensors = read_tensors(tmp_path / "wrn_16_1.digits.checkpoint")
    sample, theirs = read_tensors(unpack("training/wrn_16_1.digits.checkpoint.xz", tmp_path / "sample"))
    assert list(tensors) == list(theirs)
    assert metadata.keys() == sample.keys()
    assert json.loads(metadata["run"]).keys() == json.loads(sample["run"]).keys()
    # the sample has the optimizer's groups and the schedule as well, which follow from the run and the epochs
    assert json.loads(metadata["rest"]).keys() == {"epochs", "computed"}
    kept = {name: text for name, text in metadata.items() if name != "content_sha256"}
    assert seal(tensors, kept) == {"content_sha256": metadata["content_sha256"]}
