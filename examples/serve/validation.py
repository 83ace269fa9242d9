"""Validation of requests, and the errors for clients."""

import json
from collections.abc import Callable, Collection
from typing import Any

from examples.serve.limits import Limits

__all__ = ["ApiError", "read_json", "text_of", "words_of"]


_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇", "'"))
"""Characters that phones and word processors write in place of an apostrophe."""


class ApiError(Exception):
    """The error of a request that cannot be answered.

    Args:
      status: the HTTP status code.
      message: the field, the expected value and the received value.
      field: the field of the body that is wrong, such as "words[2]".
      retry_after: seconds after which the client may try again.
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
    """Return the only field of a JSON object.

    Args:
      body: JSON in UTF-8.
      field: the name of the field.

    Raises:
      ApiError: the body is not an object with this field alone.
    """
    try:
        content = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # errors of UTF-8, of JSON, of its nesting
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
    """Return the words to pronounce, in lower case and without spaces around them.

    Every kind of apostrophe is replaced by '.

    Args:
      value: the value of the field "words".
      alphabet: the letters that the model knows.
      limits: limits on the number and length of the words.

    Raises:
      ApiError: the value is not a list of words with these letters, or exceeds a limit.
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
    """Return the words of a text. Every kind of apostrophe is replaced by '.

    Args:
      value: the value of the field "text".
      split: a function that splits a text into words.
      limits: limits on the length of the text.

    Raises:
      ApiError: the value is not a text, has no words, or exceeds a limit.
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
    """Return a description of a value that fits on one line, however long the value is."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    return json.dumps(value)[:40]
