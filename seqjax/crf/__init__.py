"""Linear-chain conditional random fields: tags of a sequence that depend on their neighbours.

    s(y) = start_y1 + Σ_t emissions_t,yt + Σ_t>1 transitions_yt-1,yt + end_yT
    p(y) = exp(s(y)) / Z,   Z = Σ_y' exp(s(y'))

over the real steps of a sequence. The following holds for all functions:

- They compute in float32 or wider. Sums over time keep this accuracy for 100,000 steps and more.
- A score of -inf forbids a tag or a transition. No result takes a forbidden step, and gradients
  are finite. If every tagging is forbidden, log Z and the best score are -inf.
- Values in padding, also NaN, change neither results nor gradients. A mask may have holes: the
  real steps on both sides of a hole are neighbours.
- A sequence without real steps has one tagging, the empty one: s = 0, log Z = 0, log p = 0.
"""

from seqjax.crf._decoding import CRFDecoded, decode
from seqjax.crf._likelihood import log_likelihood, log_partition, loss, marginals
from seqjax.crf._module import CRF

__all__ = ["CRF", "CRFDecoded", "decode", "log_likelihood", "log_partition", "loss", "marginals"]
