"""Connectionist temporal classification: labels of a sequence without their places in time.

A path has one class a frame, `blank` among them; merging its repeats and then dropping its blanks
gives its labels: `a a - a b b → a a b`. The probability of labels is the sum over their paths.
"""

from seqjax.ctc._decoding import CTCDecoded, ctc_beam_search, ctc_greedy
from seqjax.ctc._loss import ctc_loss

__all__ = ["CTCDecoded", "ctc_beam_search", "ctc_greedy", "ctc_loss"]
