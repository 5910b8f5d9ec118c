"""The published tables: every number that the papers and repositories print, as `targets.json` has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict

from pyramidzoo.errors import UsageError
from pyramidzoo.files import package_path

OTHERS = "Z"  # the table of what was measured without a published row


class PublishedTable(TypedDict):
    """A published table.

    Attributes:
        id: Short name, such as "P1".
        title: What the table shows.
        datasets: The datasets whose errors it prints.
        rows: Number of its rows.
    """

    id: str
    title: str
    datasets: list[str]
    rows: int


class PublishedNumber(TypedDict):
    """One number of a published table. A row has a number for each dataset, metric and publisher.

    Attributes:
        table: Id of the table.
        row: Number of the row in the table, from 1.
        label: The row's first cell, as it is printed.
        network: What the row is about; an architecture name, if the zoo has the architecture.
        architecture: Name of the architecture; None if the zoo does not have it.
        arguments: Arguments of the architecture that the row needs.
        dataset: The dataset that the number was measured on.
        metric: "top1_error", "top5_error" or "mAP".
        unit: "%" or "mAP".
        value: The number with its printed digits.
        by: Who published it.
        statistic: Such as "median", "mean" or "single run".
        spread: Of how many runs, or the printed deviation; None if neither is printed.
        crop: How a test image was cropped.
        variant: How the network was trained, or why the zoo does not have it.
        doubt: Why the number is doubtful; None if it is not.
        approximate: Whether it is printed as approximate.
        note: What else is to be known about the network.
    """

    table: str
    row: int
    label: str
    network: str
    architecture: str | None
    arguments: dict[str, Any]
    dataset: str
    metric: str
    unit: str
    value: str
    by: str
    statistic: str
    spread: str | None
    crop: str
    variant: str
    doubt: str | None
    approximate: bool
    note: str | None


class PublishedTables(TypedDict):
    """The content of `targets.json`.

    Attributes:
        tables: The tables, in their order.
        targets: The numbers of all tables, in their order.
        elsewhere: Weights that other people have published, described by architecture and dataset.
    """

    tables: list[PublishedTable]
    targets: list[PublishedNumber]
    elsewhere: Mapping[str, Mapping[str, str]]


@cache
def load_published_tables() -> PublishedTables:
    """Load the published tables.

    Returns:
        The tables, their numbers, and where else weights are. Do not change them: every caller gets the same object.
    """
    document: PublishedTables = json.loads(package_path("catalog/targets.json").read_text(encoding="utf-8"))
    return document


def list_table_ids() -> list[str]:
    """List the ids of the published tables, and of the table of what was measured without a published row."""
    return [*(table["id"] for table in load_published_tables()["tables"]), OTHERS]


def get_table_title(table: str) -> str:
    """Return what a table shows.

    Args:
        table: The id of the table.

    Returns:
        The title.

    Raises:
        UsageError: If there is no such table.
    """
    titles = {published["id"]: published["title"] for published in load_published_tables()["tables"]}
    titles[OTHERS] = "Measured, without a published row"
    if table not in titles:
        raise UsageError(f"no table is called {table!r}; the tables are {', '.join(titles)}")
    return titles[table]
