"""Checks for cells of one's own: `check_cell` runs the laws that every cell must keep."""

from seqjax.testing._laws import LAWS, CellError, check_cell

__all__ = ["LAWS", "CellError", "check_cell"]
