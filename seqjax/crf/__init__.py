"""Linear-chain conditional random fields (CRF): models of tag sequences with tag transitions.

    s(y) = start_y1 + Σ_t emissions_t,yt + Σ_t>1 transitions_yt-1,yt + end_yT
    p(y) = exp(s(y)) / Z,   Z = Σ_y' exp(s(y'))

Here y is a tagging (a sequence of tags) and s(y) is its score. The sums over t include only the
steps that are not padding. The following holds for all functions:

- All functions compute in float32 or wider. Sums over 100,000 steps and more keep the accuracy of
  the dtype.
- A score of -inf forbids a tag or a transition. Forbidden tags and transitions do not occur in any
  result, and gradients are finite. If all taggings are forbidden, log Z and the best score are
  -inf.
- Values in padding, including NaN, affect neither results nor gradients. A mask may have gaps; the
  real steps on both sides of a gap are treated as adjacent.
- A sequence without real steps has only the empty tagging, with s = 0, log Z = 0 and log p = 0.
"""

from seqjax.crf._decoding import CRFDecoded, decode
from seqjax.crf._likelihood import log_likelihood, log_partition, loss, marginals
from seqjax.crf._module import CRF

__all__ = ["CRF", "CRFDecoded", "decode", "log_likelihood", "log_partition", "loss", "marginals"]
