"""`publish`: publish measured weights on the Hugging Face Hub, if their license allows it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.manifest import get_manifest_path, load_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._records import read_records_argument
from pyramidzoo.commands._select import select_entries
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError, worst_exit_code
from pyramidzoo.text_output import line_width, render, show

if TYPE_CHECKING:
    from pyramidzoo.evaluation.records import Record

_DRY_RUN_FOLDER = Path("publish")  # the folder in the working directory that `--dry-run` writes to by default
_Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `publish`."""
    parser.add_argument(
        "weights", nargs="?", metavar="WEIGHTS", help="a weights id, or an architecture for its default weights"
    )
    parser.add_argument(
        "--repo-id", metavar="OWNER/NAME", help="the repository on the Hub; it is made if it does not exist"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="publish all weights of the manifest that may be published; an interrupted run can be started again",
    )
    parser.add_argument("--org", help="the owner of the repositories: each set of weights is published as ORG/ID")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="only write the folder that would be uploaded")
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="DIR",
        help="keep the uploaded folder as DIR/ID (default of --dry-run: publish/ID)",
    )
    parser.add_argument(
        "--records",
        type=path_argument,
        metavar="DIR",
        help="a folder that evaluate --output wrote; its records are used in addition to the manifest's results",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the published repository and commit into the manifest file"
    )


@dataclass(frozen=True)
class PublishOptions(CommandOptions):
    """The options of `publish`. The help texts in `add_arguments` explain them."""

    weights: str | None
    repo_id: str | None
    all: bool
    org: str | None
    private: bool
    dry_run: bool
    output: Path | None
    records: Path | None
    write: bool

    def __post_init__(self) -> None:
        if bool(self.weights) == self.all:
            raise UsageError("name one set of weights to publish, or give --all")
        if self.all and (self.repo_id or not self.org):
            raise UsageError("--all publishes each set of weights as ORG/ID; give --org, and no --repo-id")
        if not self.all and bool(self.repo_id) == bool(self.org):
            raise UsageError("say where to publish: --repo-id OWNER/NAME, or --org ORG for ORG/ID")
        if self.dry_run and self.write:
            raise UsageError(
                "--dry-run publishes nothing that --write could put into the manifest; leave one of them out"
            )

    def get_repo_id(self, entry: WeightsEntry) -> str:
        """Return the id (OWNER/NAME) of the repository in which an entry is published."""
        return self.repo_id or f"{self.org}/{entry.id}"

    def get_folder(self, entry: WeightsEntry) -> Path | None:
        """Return the folder in which the uploaded files of an entry are kept. Return None if they are not kept."""
        if self.output is None and not self.dry_run:
            return None
        return (self.output or _DRY_RUN_FOLDER) / entry.id


def run(args: argparse.Namespace) -> int:
    """Run `publish`: publish one set of weights or all that may be published, and return the exit code."""
    options = PublishOptions.from_args(args)
    if options.write:
        from pyramidzoo.catalog.manifest_writer import find_writable_manifest

        find_writable_manifest()  # If no manifest can be written, this raises an error before anything is published.
    records = [] if options.records is None else read_records_argument(options.records)
    if options.weights is None:
        return _publish_all(options, records)
    return _publish_one(options.weights, options, records)


def _publish_one(name: str, options: PublishOptions, records: Sequence[Record]) -> int:
    """Publish the weights that the user named, print the result, and return exit code 0.

    Raises:
        PyramidzooError: The weights cannot or must not be published.
    """
    from pyramidzoo.hub.prepare import check_repo_id

    entries = select_entries([name])
    if len(entries) > 1:
        raise UsageError(f"{name} means {len(entries)} sets of weights; name one, or give --all")
    check_repo_id(options.get_repo_id(entries[0]))
    row = _publish(entries[0], options, records)
    print(_render_one(row, options.format))
    return 0


def _publish_all(options: PublishOptions, records: Sequence[Record]) -> int:
    """Publish all weights of the manifest file that may be published, and return the exit code.

    Weights that must not be published are listed with the reason. If some weights cannot be published, the others are
    still published.
    """
    from pyramidzoo.hub.permission import explain_refusal, merge_results
    from pyramidzoo.hub.prepare import check_repo_id

    entries = _list_entries_of_manifest_file()
    refusal_reasons = {entry.id: explain_refusal(entry, merge_results(entry, records)) for entry in entries}
    for entry in entries:
        if refusal_reasons[entry.id] is None:
            # All names are checked before the first upload. So a wrong name is reported at once.
            check_repo_id(options.get_repo_id(entry))
    rows, error_codes = [], []
    for entry in entries:
        if reason := refusal_reasons[entry.id]:
            rows.append(_make_row(entry, "refused", detail=reason))
            continue
        try:
            rows.append(_publish(entry, options, records))
        except (PyramidzooError, OSError) as raised:
            error = raised if isinstance(raised, PyramidzooError) else UnavailableError.from_os_error(raised)
            rows.append(_make_row(entry, "failed", repository=options.get_repo_id(entry), detail=str(error)))
            error_codes.append(error.exit_code)
            print(f"pyramidzoo: {entry.id}: {error}", file=sys.stderr)
    show(_render_all(rows, options.format))
    return worst_exit_code(error_codes)


def _list_entries_of_manifest_file() -> list[WeightsEntry]:
    """Return the entries in the manifest file itself, without the package's entries that it may extend."""
    ids = json.loads(get_manifest_path().read_text(encoding="utf-8"))["weights"]
    return [entry for weights_id, entry in load_manifest().entries.items() if weights_id in ids]


def _publish(entry: WeightsEntry, options: PublishOptions, records: Sequence[Record]) -> _Row:
    """Publish one set of weights, and return a row about it. With `--dry-run`, only write the folder to be uploaded."""
    from pyramidzoo.catalog.manifest_writer import find_writable_manifest, read_entry_content, write_entry
    from pyramidzoo.hub.manifest_entry import make_published_entry
    from pyramidzoo.hub.prepare import prepare_folder
    from pyramidzoo.hub.upload import upload_folder

    repo_id, folder = options.get_repo_id(entry), options.get_folder(entry)
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as temporary_folder:
        prepared = prepare_folder(entry, folder or Path(temporary_folder), repo_id, records=records)
        if options.dry_run:
            return _make_row(
                entry,
                "prepared",
                repository=repo_id,
                sha256=prepared.sha256,
                bytes=prepared.bytes,
                detail=str(folder),
            )
        published = upload_folder(prepared, private=options.private)

    def make_entry() -> _Row:
        # `write_entry` calls this function right before it writes. So a change that another process has made to the
        # manifest in the meantime is kept.
        return make_published_entry(published, read_entry_content(entry.id))

    if options.write:
        write_entry(find_writable_manifest(), entry.id, make_entry)
    state = "published" if published.is_new else "already there"
    print(f"pyramidzoo: {entry.id}: {state}, read back and verified: {published.url}", file=sys.stderr)
    return _make_row(
        entry,
        state,
        repository=repo_id,
        revision=published.hub_file.revision,
        sha256=published.hub_file.sha256,
        bytes=published.hub_file.bytes,
        entry=make_entry(),
    )


def _make_row(weights: WeightsEntry, state: str, **values: Any) -> _Row:
    """Make a row about one set of weights.

    Args:
        weights: The weights.
        state: "published", "already there", "prepared", "refused" or "failed".
        **values: Values of the other columns. Columns without a value become None.
    """
    columns = ("repository", "revision", "sha256", "bytes", "detail", "entry")
    return {"weights": weights.id, "state": state} | {name: values.get(name) for name in columns}


def _render_one(row: _Row, format: str) -> str:
    """Write the row about one set of weights.

    For people, only the part that they need is written: after an upload the new manifest entry, and after a dry run the
    path of the folder.
    """
    if format != "human":
        return _render_all([row], format)
    if row["entry"] is None:
        return str(row["detail"])
    return json.dumps({row["weights"]: row["entry"]}, indent=1, ensure_ascii=False)


def _render_all(rows: list[_Row], format: str) -> str:
    """Write a table of all rows. Only the JSON format contains the new manifest entries.

    For people, the table does not contain the weights that must not be published. For each reason, the number of these
    weights is printed to stderr.
    """
    if format == "json":
        return render(rows, format)
    if format == "human":
        refusal_counts = Counter(row["detail"] for row in rows if row["state"] == "refused")
        for reason, count in refusal_counts.items():
            print(f"pyramidzoo: {count} refused: {reason}", file=sys.stderr)
        rows = [row for row in rows if row["state"] != "refused"]
        columns = ["weights", "state", "revision", "detail"]
    else:
        columns = [name for name in (rows[0] if rows else {}) if name != "entry"]
    return render([{name: row[name] for name in columns} for row in rows], format, width=line_width())
