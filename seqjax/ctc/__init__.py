"""Connectionist temporal classification (CTC): label sequences without an alignment to frames.

A path assigns a class to each frame. One of the classes is the blank, which stands for no label.
The labels of a path are the classes that remain after merging repeated classes and then removing
blanks: `a a - a b b → a a b`. The probability of a label sequence is the sum of the probabilities
of its paths.
"""

from seqjax.ctc._decoding import CTCDecoded, ctc_beam_search, ctc_greedy
from seqjax.ctc._loss import ctc_loss

__all__ = ["CTCDecoded", "ctc_beam_search", "ctc_greedy", "ctc_loss"]
