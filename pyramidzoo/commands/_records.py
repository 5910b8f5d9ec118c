"""Read the records in the folder that the option `--records` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyramidzoo.errors import UsageError

if TYPE_CHECKING:
    from pyramidzoo.evaluation.records import Record


def read_records_argument(folder: Path) -> list[Record]:
    """Read all records in a folder that `pyramidzoo evaluate --output` has written.

    Args:
        folder: The value of the option `--records`.

    Raises:
        UsageError: There is no such folder.
        IntegrityError: A record is damaged.
    """
    from pyramidzoo.evaluation.records import read_records

    if not folder.is_dir():
        raise UsageError(f"--records {folder} is not a folder; `pyramidzoo evaluate --output` makes one")
    return read_records(folder)
