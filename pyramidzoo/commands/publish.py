"""`publish`: publish measured weights on the Hub, as their license allows."""

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

_DRY_RUN_FOLDER = Path("publish")  # in the working directory
_Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `publish`."""
    parser.add_argument("weights", nargs="?", metavar="WEIGHTS", help="an id, or an architecture for its default")
    parser.add_argument("--repo-id", metavar="OWNER/NAME", help="the repository; it is made if it does not exist")
    parser.add_argument(
        "--all", action="store_true", help="publish everything in the manifest that may be published, and resume"
    )
    parser.add_argument("--org", help="the owner of the repositories: each set of weights goes to ORG/ID")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="only write the folder that would be uploaded")
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="DIR",
        help="keep the folder as DIR/ID (default of --dry-run: publish/ID)",
    )
    parser.add_argument(
        "--records",
        type=path_argument,
        metavar="DIR",
        help="an --output folder of evaluate, which is used beside the manifest's results",
    )
    parser.add_argument("--write", action="store_true", help="write the published place into the manifest file")


@dataclass(frozen=True)
class PublishOptions(CommandOptions):
    """The options of `publish`; `add_arguments` says what each means."""

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

    def repository_of(self, entry: WeightsEntry) -> str:
        """Return the name of the repository that an entry goes to."""
        return self.repo_id or f"{self.org}/{entry.id}"

    def folder_of(self, entry: WeightsEntry) -> Path | None:
        """Return the folder in which the uploaded files are kept; None if they are not kept."""
        if self.output is None and not self.dry_run:
            return None
        return (self.output or _DRY_RUN_FOLDER) / entry.id


def run(args: argparse.Namespace) -> int:
    """Run `publish`: publish one set of weights or all that may be, print them, and return the exit code."""
    options = PublishOptions.from_args(args)
    if options.write:
        from pyramidzoo.catalog.manifest_writer import find_writable_manifest

        find_writable_manifest()
    records = [] if options.records is None else read_records_argument(options.records)
    if options.weights is None:
        return _publish_all(options, records)
    return _publish_one(options.weights, options, records)


def _publish_one(name: str, options: PublishOptions, records: Sequence[Record]) -> int:
    from pyramidzoo.hub.prepare import check_repo_id

    entries = select_entries([name])
    if len(entries) > 1:
        raise UsageError(f"{name} means {len(entries)} sets of weights; name one, or give --all")
    check_repo_id(options.repository_of(entries[0]))
    row = _publish(entries[0], options, records)
    print(_render_one(row, options.format))
    return 0


def _publish_all(options: PublishOptions, records: Sequence[Record]) -> int:
    """Publish what may be published. A failure of one does not stop the rest."""
    from pyramidzoo.hub.permission import explain_refusal, merge_results
    from pyramidzoo.hub.prepare import check_repo_id

    entries = _entries_of_manifest_file()
    reasons = {entry.id: explain_refusal(entry, merge_results(entry, records)) for entry in entries}
    for entry in entries:
        if reasons[entry.id] is None:
            check_repo_id(options.repository_of(entry))  # all of them, before the first one is published
    rows, codes = [], []
    for entry in entries:
        if reason := reasons[entry.id]:
            rows.append(_row(entry, "refused", detail=reason))
            continue
        try:
            rows.append(_publish(entry, options, records))
        except (PyramidzooError, OSError) as raised:
            error = raised if isinstance(raised, PyramidzooError) else UnavailableError.from_os_error(raised)
            rows.append(_row(entry, "failed", repository=options.repository_of(entry), detail=str(error)))
            codes.append(error.exit_code)
            print(f"pyramidzoo: {entry.id}: {error}", file=sys.stderr)
    show(_render_all(rows, options.format))
    return worst_exit_code(codes)


def _entries_of_manifest_file() -> list[WeightsEntry]:
    """Return the entries that the manifest file itself has, without those of the zoo that it extends."""
    ids = json.loads(get_manifest_path().read_text(encoding="utf-8"))["weights"]
    return [entry for weights_id, entry in load_manifest().entries.items() if weights_id in ids]


def _publish(entry: WeightsEntry, options: PublishOptions, records: Sequence[Record]) -> _Row:
    """Publish one set of weights, or with `--dry-run` only write its folder, and return a row about it."""
    from pyramidzoo.catalog.manifest_writer import find_writable_manifest, read_entry_content, write_entry
    from pyramidzoo.hub.manifest_entry import make_published_entry
    from pyramidzoo.hub.prepare import prepare_folder
    from pyramidzoo.hub.upload import upload_folder

    repo_id, folder = options.repository_of(entry), options.folder_of(entry)
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as temporary:
        prepared = prepare_folder(entry, folder or Path(temporary), repo_id, records=records)
        if options.dry_run:
            return _row(
                entry,
                "prepared",
                repository=repo_id,
                sha256=prepared.sha256,
                bytes=prepared.bytes,
                detail=str(folder),
            )
        published = upload_folder(prepared, private=options.private)

    def make_entry() -> _Row:
        # The manifest is read when it is written: another process may have changed it meanwhile.
        return make_published_entry(published, read_entry_content(entry.id))

    if options.write:
        write_entry(find_writable_manifest(), entry.id, make_entry)
    state = "published" if published.is_new else "already there"
    print(f"pyramidzoo: {entry.id}: {state}, read back and verified: {published.url}", file=sys.stderr)
    return _row(
        entry,
        state,
        repository=repo_id,
        revision=published.hub_file.revision,
        sha256=published.hub_file.sha256,
        bytes=published.hub_file.bytes,
        entry=make_entry(),
    )


def _row(weights: WeightsEntry, state: str, **values: Any) -> _Row:
    """Return a row with all columns; those without a value are None."""
    columns = ("repository", "revision", "sha256", "bytes", "detail", "entry")
    return {"weights": weights.id, "state": state} | {name: values.get(name) for name in columns}


def _render_one(row: _Row, format: str) -> str:
    """Return what people asked for, the manifest's entry or the folder of a dry run; for programs, the row."""
    if format != "human":
        return _render_all([row], format)
    if row["entry"] is None:
        return str(row["detail"])
    return json.dumps({row["weights"]: row["entry"]}, indent=1, ensure_ascii=False)


def _render_all(rows: list[_Row], format: str) -> str:
    """Return a table of all rows. The entries themselves are in JSON only.

    For people, rows that are refused are not shown: their number is printed to stderr for each reason.
    """
    if format == "json":
        return render(rows, format)
    if format == "human":
        for reason, number in Counter(row["detail"] for row in rows if row["state"] == "refused").items():
            print(f"pyramidzoo: {number} refused: {reason}", file=sys.stderr)
        rows = [row for row in rows if row["state"] != "refused"]
        columns = ["weights", "state", "revision", "detail"]
    else:
        columns = [name for name in (rows[0] if rows else {}) if name != "entry"]
    return render([{name: row[name] for name in columns} for row in rows], format, width=line_width())
