"""Transducers (RNN-T): label sequences without an alignment to frames, decoded frame by frame.

At each frame, a transducer emits any number of labels and then a blank, which leads to the next
frame. Three networks compute the probabilities: an encoder of the frames, a prediction network that
reads the labels emitted so far, and a joint network of their outputs. In contrast to CTC, a label
depends on the labels before it, and there may be more labels than frames.

The loss and the decoders are functions of the networks' outputs; `Transducer` is a model that calls
them.
"""

from seqjax.transducer._greedy import transducer_greedy
from seqjax.transducer._loss import joint_transducer_loss, transducer_loss
from seqjax.transducer._model import TransducerDecoded
from seqjax.transducer._module import Transducer
from seqjax.transducer._search import transducer_beam_search

__all__ = [
    "Transducer",
    "TransducerDecoded",
    "joint_transducer_loss",
    "transducer_beam_search",
    "transducer_greedy",
    "transducer_loss",
]
