"""The records in a folder that `evaluate --output` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyramidzoo.errors import UsageError

if TYPE_CHECKING:
    from pyramidzoo.evaluation.records import Record


def read_records_argument(folder: Path) -> list[Record]:
    """Read all records in the folder that `--records` names.

    Raises:
        UsageError: There is no such folder.
        IntegrityError: A record is damaged.
    """
    from pyramidzoo.evaluation.records import read_records

    if not folder.is_dir():
        raise UsageError(f"--records {folder} is not a folder; `pyramidzoo evaluate --output` makes one")
    return read_records(folder)
