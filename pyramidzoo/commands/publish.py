"""`publish`: publish measured weights on the Hub, as their licence allows."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.manifest import WeightsEntry, load_manifest, manifest_path
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.commands._select import select
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError, worst_exit_code
from pyramidzoo.text_output import line_width, render, show

if TYPE_CHECKING:
    from pyramidzoo.evaluation.records import Record

_FOLDER = Path("publish")  # of a dry run, in the working directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `publish`."""
    parser.add_argument("weights", nargs="?", metavar="WEIGHTS", help="an id, or an architecture's default")
    parser.add_argument("--repo-id", metavar="OWNER/NAME", help="the repository, made if need be")
    parser.add_argument("--all", action="store_true", help="all of the manifest that may be published; resumes")
    parser.add_argument("--org", help="whose repositories: each set of weights goes to ORG/ID")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="only write the folder that would be uploaded")
    parser.add_argument(
        "--output", type=path_argument, metavar="DIR", help="keep it as DIR/ID (--dry-run: publish/ID by default)"
    )
    parser.add_argument(
        "--records",
        type=path_argument,
        metavar="DIR",
        help="an --output folder of evaluate, beside the manifest's results",
    )
    parser.add_argument("--write", action="store_true", help="put the published place into the manifest file")


def run(args: argparse.Namespace) -> int:
    """Publish one set of weights, or all that may be, and print their manifest entries."""
    _check(args)
    from pyramidzoo.hub.manifest_entry import writable_manifest
    from pyramidzoo.hub.permission import explain_refusal, merge_results
    from pyramidzoo.hub.prepare import check_repo_id

    if args.write:
        writable_manifest()
    records = _records(args.records)
    if not args.all:
        entries = select([args.weights])
        if len(entries) > 1:
            raise UsageError(f"{args.weights} means {len(entries)} sets of weights; name one, or give --all")
        entry = entries[0]
        row = _publish(args, entry, check_repo_id(args.repo_id or f"{args.org}/{entry.id}"), records)
        print(_one(row, args.format))
        return 0

    rows: list[dict[str, Any]] = []
    codes: list[int] = []
    reasons = {entry.id: explain_refusal(entry, merge_results(entry, records)) for entry in _own_entries()}
    for weights_id in (weights_id for weights_id, reason in reasons.items() if reason is None):
        check_repo_id(f"{args.org}/{weights_id}")  # before the first one is published
    for entry in _own_entries():
        if reason := reasons[entry.id]:
            rows.append(_row(entry, "refused", detail=reason))
            continue
        repo_id = f"{args.org}/{entry.id}"
        try:
            rows.append(_publish(args, entry, repo_id, records))
        except (PyramidzooError, OSError) as failed:
            error = failed if isinstance(failed, PyramidzooError) else UnavailableError.of(failed)
            rows.append(_row(entry, "failed", repository=repo_id, detail=str(error)))
            codes.append(error.exit_code)
            print(f"pyramidzoo: {entry.id}: {error}", file=sys.stderr)
    show(_all(rows, args.format))
    return worst_exit_code(codes)


def _check(args: argparse.Namespace) -> None:
    if bool(args.weights) == args.all:
        raise UsageError("name one set of weights to publish, or give --all")
    if args.all and (args.repo_id or not args.org):
        raise UsageError("--all publishes each set of weights as ORG/ID; give --org, and no --repo-id")
    if not args.all and bool(args.repo_id) == bool(args.org):
        raise UsageError("say where to: --repo-id OWNER/NAME, or --org ORG for ORG/ID")
    if args.dry_run and args.write:
        raise UsageError("--dry-run publishes nothing that --write could put into the manifest; leave one of them out")


def _records(folder: Path | None) -> list[Record]:
    if folder is None:
        return []
    from pyramidzoo.evaluation.records import read_records

    if not folder.is_dir():
        raise UsageError(f"--records {folder} is not a folder; `pyramidzoo evaluate --output` makes one")
    return read_records(folder)


def _own_entries() -> list[WeightsEntry]:
    """What stands in the manifest file itself; one that extends the zoo's does not mean all of the zoo."""
    own = json.loads(manifest_path().read_text(encoding="utf-8"))["weights"]
    return [entry for weights_id, entry in load_manifest().entries.items() if weights_id in own]


def _publish(args: argparse.Namespace, entry: WeightsEntry, repo_id: str, records: Sequence[Record]) -> dict[str, Any]:
    """One publication, or with --dry-run its folder, as a row."""
    from pyramidzoo.hub.manifest_entry import make_published_entry, manifest_content, writable_manifest, write_entry
    from pyramidzoo.hub.prepare import prepare_folder
    from pyramidzoo.hub.upload import upload_folder

    kept = (args.output or _FOLDER) / entry.id if args.output or args.dry_run else None
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as temporary:
        prepared = prepare_folder(entry, kept or Path(temporary), repo_id, records=records)
        if args.dry_run:
            facts = {"repository": repo_id, "sha256": prepared.sha256, "bytes": prepared.bytes}
            return _row(entry, "prepared", **facts, detail=str(kept))
        published = upload_folder(prepared, private=args.private)
    make: Callable[[], dict[str, Any]] = lambda: make_published_entry(published, manifest_content(entry))  # noqa: E731
    if args.write:
        write_entry(writable_manifest(), entry.id, make)
    state = "published" if published.is_new else "already there"
    print(f"pyramidzoo: {entry.id}: {state}, read back and verified: {published.url}", file=sys.stderr)
    hub = published.hub
    found = {"repository": repo_id, "revision": hub.revision, "sha256": hub.sha256, "bytes": hub.bytes}
    return _row(entry, state, **found, entry=make())


def _row(weights: WeightsEntry, state: str, **known: Any) -> dict[str, Any]:
    columns = ("repository", "revision", "sha256", "bytes", "detail", "entry")
    return {"weights": weights.id, "state": state} | {name: known.get(name) for name in columns}


def _one(row: dict[str, Any], format: str) -> str:
    """For people, what they asked for: the manifest's entry, or the folder of a dry run."""
    if format != "human":
        return _all([row], format)
    return (
        str(row["detail"])
        if row["entry"] is None
        else json.dumps({row["weights"]: row["entry"]}, indent=1, ensure_ascii=False)
    )


def _all(rows: list[dict[str, Any]], format: str) -> str:
    """A row each; the entries themselves in json only. For people, those that are refused are counted by reason."""
    if format == "json":
        return render(rows, format)
    shown = [{name: value for name, value in row.items() if name != "entry"} for row in rows]
    if format == "human":
        for reason, number in Counter(row["detail"] for row in rows if row["state"] == "refused").items():
            print(f"pyramidzoo: {number} refused: {reason}", file=sys.stderr)
        wanted = ("weights", "state", "revision", "detail")
        shown = [{name: row[name] for name in wanted} for row in shown if row["state"] != "refused"]
    return render(shown, format, width=line_width())
