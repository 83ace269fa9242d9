"""Tests for your own cells. `check_cell` tests the laws that every cell must obey."""

from seqjax.testing._check import CellError, check_cell
from seqjax.testing._laws import LAWS

__all__ = ["LAWS", "CellError", "check_cell"]
