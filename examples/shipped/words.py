"""Division of a text into words, in any language that puts spaces or marks between words."""

import re
import sys
import unicodedata

__all__ = ["WORD", "words_of"]

# Combining marks and joiners are part of a word, such as the vowel signs of Hindi. The pattern \w
# does not match them.
_MARKS = "\u200c\u200d" + "".join(
    mark for mark in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(mark)[0] == "M"
)
WORD = rf"[^\W_](?:[^\W_]|[{_MARKS}])*"
"""Pattern of a word, which begins with a letter or a digit."""


def words_of(text: str, pattern: str = WORD) -> list[str]:
    r"""Return the words that match a pattern, in lower case and in the Unicode form NFC.

    The apostrophe ’ becomes '.

    Example:
      >>> words_of("Two cafe\u0301s, अच्छी हिन्दी")
      ['two', 'cafés', 'अच्छी', 'हिन्दी']
    """
    return re.findall(pattern, unicodedata.normalize("NFC", text.lower()).replace("’", "'"))
