"""Tests for your own cells. `check_cell` tests the laws that every cell must obey."""

from seqjax.testing._laws import LAWS, CellError, check_cell

__all__ = ["LAWS", "CellError", "check_cell"]
