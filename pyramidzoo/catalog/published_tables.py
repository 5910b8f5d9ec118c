"""The published tables: the numbers in the tables of papers and repositories. They are stored in `targets.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict

from pyramidzoo.errors import UsageError
from pyramidzoo.files import package_path

# The id of the table of all evaluated weights for which no published table has a row.
UNPUBLISHED_TABLE = "Z"


class PublishedTable(TypedDict):
    """A published table.

    Attributes:
        id: Short name, such as "P1".
        title: What the table shows.
        datasets: The datasets whose errors the table prints.
        rows: Number of rows of the table.
    """

    id: str
    title: str
    datasets: list[str]
    rows: int


class PublishedNumber(TypedDict):
    """One number of a published table. A row of the table has a number for each dataset, metric and publisher.

    Attributes:
        table: Id of the table.
        row: Number of the row in the table, from 1.
        label: The first cell of the row, as it is printed.
        network: Name of the row's network. It is an architecture's name, if pyramidzoo has the architecture.
        architecture: Name of the architecture; None if pyramidzoo does not have it.
        arguments: Arguments of the architecture, such as the dropout rate, with which the row's network is built.
        dataset: The dataset that the number was measured on.
        metric: "top1_error", "top5_error" or "mAP".
        unit: "%" or "mAP".
        value: The number with its printed digits.
        by: Who published the number.
        statistic: How the number summarizes the runs, such as "median", "mean" or "single run".
        spread: The number of runs, or the printed deviation between them; None if neither is printed.
        crop: How a test image was cropped.
        variant: How the network was trained, or why pyramidzoo does not have it.
        doubt: Why the number is doubtful; None if it is not doubtful.
        approximate: Whether the table prints the number as an approximate one.
        note: A remark about the network; None if there is none.
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
        elsewhere: For an architecture and a dataset without weights in the manifest: where other people publish some.
    """

    tables: list[PublishedTable]
    targets: list[PublishedNumber]
    elsewhere: Mapping[str, Mapping[str, str]]


@cache
def load_published_tables() -> PublishedTables:
    """Load the published tables.

    Returns:
        The content of `targets.json`. Do not change it: every caller gets the same object.
    """
    document: PublishedTables = json.loads(package_path("catalog/targets.json").read_text(encoding="utf-8"))
    return document


def list_table_ids() -> list[str]:
    """List the ids of the published tables, and last the id `UNPUBLISHED_TABLE`."""
    return [*(table["id"] for table in load_published_tables()["tables"]), UNPUBLISHED_TABLE]


def get_table_title(table: str) -> str:
    """Return the title of a table.

    Args:
        table: The id of the table, such as "P1".

    Returns:
        The title, which says what the table shows.

    Raises:
        UsageError: If no table has this id.
    """
    titles = {published["id"]: published["title"] for published in load_published_tables()["tables"]}
    titles[UNPUBLISHED_TABLE] = "Measured, without a published row"
    if table not in titles:
        raise UsageError(f"no table is called {table!r}; the tables are {', '.join(titles)}")
    return titles[table]
