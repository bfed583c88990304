"""Feedback that other tools wrote, as our records."""

from loopwright.data.importers.base import Importer, Unreadable
from loopwright.data.importers.items import UPLOADED, Limits
from loopwright.data.importers.run import ImportReport, import_feedback, imported_records
from loopwright.data.importers.table import IMPORTERS

__all__ = [
    "IMPORTERS", "ImportReport", "Importer", "Limits", "UPLOADED", "Unreadable", "import_feedback", "imported_records",
]  # fmt: skip
