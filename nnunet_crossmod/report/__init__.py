"""``crossmod report``: everything about a comparison, or about a data set's trainings, on one page."""

from nnunet_crossmod.report.sections import write_report

__all__ = ["write_report"]
