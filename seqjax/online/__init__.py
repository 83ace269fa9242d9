"""Online gradients: real-time recurrent learning, whose memory does not depend on time.

Backpropagation through time stores the states of all steps and computes the gradient after the last
step. The functions of this package carry the derivative of the state with respect to the
parameters, the influence, forward from step to step. So the gradient is known after every step,
and the parameters can be updated at every step of an endless stream.

With the method "exact", the result is the gradient of backpropagation through time. The cell must
be diagonal, such as `MinGRU`, `MinLSTM`, `IndRNN`, `LRU`, `S5` and `SRU`, and `RGLRU` with equal
`input_size` and `hidden_size`. With the method "snap1", the result is the approximation SnAp-1,
which also exists for `Elman`, `GRU`, `LSTM` and other cells.
"""

from seqjax.online._state import OnlineState, initial_state
from seqjax.online._step import step
from seqjax.online._window import value_and_grad

__all__ = ["OnlineState", "initial_state", "step", "value_and_grad"]
