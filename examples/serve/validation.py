"""What may come in, and how a client is told what is wrong with what came."""

import json
from collections.abc import Callable, Collection
from typing import Any

from examples.serve.limits import Limits

__all__ = ["ApiError", "read_json", "text_of", "words_of"]


_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇", "'"))
"""What phones and word processors write where a keyboard has an apostrophe."""


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
      status: of HTTP.
      message: names the field, what was expected and what came.
      field: where in the body it is wrong, such as "words[2]".
      retry_after: seconds after which it is worth another try.
    """

    def __init__(
        self, status: int, message: str, *, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.retry_after = retry_after


def _wrong(field: str, expected: str, got: str) -> ApiError:
    return ApiError(400, f"{field}: expected {expected}, got {got}", field=field)


def read_json(body: bytes, field: str) -> Any:
    """The one field of a JSON object.

    Args:
      body: UTF-8.
      field: its name.

    Raises:
      ApiError: anything else.
    """
    try:
        content = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # of UTF-8, of JSON, of its nesting
        raise _wrong("body", "JSON in UTF-8", str(error)[:120]) from None
    if not isinstance(content, dict):
        raise _wrong("body", f'an object {{"{field}": …}}', _brief(content))
    if field not in content:
        names = ", ".join(map(_brief, list(content)[:3])) or "no field"
        raise _wrong(field, "this field in the body", names)
    if len(content) > 1:
        other = next(name for name in content if name != field)
        raise _wrong("body", f"the field {field} alone", f"also {_brief(other)}")
    return content[field]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _wrong("body", "each field once", f"{_brief(name)} twice")
        found[name] = value
    return found


def words_of(value: Any, alphabet: Collection[str], limits: Limits) -> list[str]:
    """Words to pronounce, in lower case, with ' for any apostrophe, without the space around them.

    Args:
      value: of the field "words".
      alphabet: the letters that the model knows.
      limits: on their number and length.

    Raises:
      ApiError: anything but words.
    """
    if not isinstance(value, list):
        raise _wrong("words", "a list of words", _brief(value))
    if not 1 <= len(value) <= limits.words:
        raise _wrong("words", f"1 to {limits.words} words", f"{len(value)}")
    words = []
    for index, word in enumerate(value):
        field = f"words[{index}]"
        if not isinstance(word, str):
            raise _wrong(field, "a word", _brief(word))
        word = word.strip().lower().translate(_APOSTROPHES)
        if not 1 <= len(word) <= limits.word_letters:
            raise _wrong(field, f"1 to {limits.word_letters} letters", f"{len(word)}")
        unknown = next((letter for letter in word if letter not in alphabet), None)
        if unknown is not None:
            known = "".join(sorted(alphabet))
            raise _wrong(field, f"letters among {known}", f"{_brief(unknown)} in {_brief(word)}")
        words.append(word)
    return words


def text_of(value: Any, split: Callable[[str], list[str]], limits: Limits) -> list[str]:
    """The words of a text, with ' for any apostrophe.

    Args:
      value: of the field "text".
      split: text to words.
      limits: on its length.

    Raises:
      ApiError: anything but a text with words in it.
    """
    if not isinstance(value, str):
        raise _wrong("text", "a text", _brief(value))
    if len(value) > limits.text_letters:
        raise _wrong("text", f"at most {limits.text_letters:,} characters", f"{len(value):,}")
    words = split(value.translate(_APOSTROPHES))
    if not 1 <= len(words) <= limits.text_words:
        raise _wrong("text", f"1 to {limits.text_words} words", f"{len(words)}")
    return words


def _brief(value: Any) -> str:
    """A value in less than a line, however long or deep it is."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    return json.dumps(value)[:40]
