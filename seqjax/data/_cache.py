"""A cache of token ids in files."""

import hashlib
import itertools
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, new_folder, replacing
from seqjax.data._containers import entries
from seqjax.data._subwords import Subwords
from seqjax.data._texts import require_tokens, tokens_of
from seqjax.data._vocabulary import Vocabulary

__all__ = ["cached_tokens"]


def cached_tokens(
    texts: Iterable[str | Sequence[str]],
    tokenizer: Vocabulary | Subwords,
    folder: FilePath,
) -> list[np.ndarray]:
    """Return the token ids of many texts. A second call with the same texts reads a file.

    The file's name is the SHA-256 digest of the tokenizer and the texts, so each combination of
    texts and tokenizer has its own file. A file that exists is complete, even if several programs
    write it at the same time. A damaged file is written again.

    Args:
      texts: a list, a pandas column or an iterator. Each text is a string, or a list of words if
        the tokenizer is a `Vocabulary` of words.
      tokenizer: a `Vocabulary` or `Subwords`, whose `encode` converts a text into ids.
      folder: the folder of the files. It is created if it does not exist.

    Returns:
      The ids of each text, int32 [t_n].

    Raises:
      TypeError: `tokenizer` is of another type, a text is not a string, or `texts` is a single
        string.
      ValueError: a column has missing values, or `folder` or one of its parent folders is a file.
      OSError: the folder cannot be written to.

    Warns:
      RuntimeWarning: the file is damaged.

    Example:
      >>> import tempfile
      >>> from seqjax.data import Vocabulary
      >>> folder = tempfile.TemporaryDirectory()
      >>> letters = Vocabulary("abc")
      >>> cached_tokens(["cab", "ba"], letters, folder.name)
      [array([6, 4, 5], dtype=int32), array([5, 4], dtype=int32)]
      >>> [path.suffix for path in Path(folder.name).iterdir()]
      ['.npz']
      >>> cached_tokens(["cab", "ba"], letters, folder.name)[1]
      array([5, 4], dtype=int32)
    """
    if not isinstance(tokenizer, Vocabulary | Subwords):
        raise TypeError(
            f"tokenizer: expected a Vocabulary or Subwords, got {checks.brief(tokenizer)}"
        )
    texts = [_plain(f"texts[{n}]", text) for n, text in enumerate(entries("texts", texts))]
    folder = new_folder("folder", folder)
    path = folder / f"{_digest(texts, tokenizer)}.npz"
    if path.exists():
        try:
            return _read(path, len(texts))
        except Exception as error:  # damaged bytes raise errors of many classes
            warnings.warn(
                f"folder: expected token ids in {path}, got a damaged file ({error}); it is "
                "written again",
                RuntimeWarning,
                stacklevel=2,
            )
    found = [tokenizer.encode(text) for text in texts]  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, found)
    return found


def _plain(name: str, text: Any) -> str | list[str]:
    """Return a text as a string or a list of strings, or raise an error."""
    if isinstance(text, str):
        return text
    words = list(tokens_of(name, text))
    require_tokens(name, words)
    return words


def _digest(texts: Sequence[str | Sequence[str]], tokenizer: Vocabulary | Subwords) -> str:
    """Return the SHA-256 digest of the tokenizer and the texts, each preceded by its size."""
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder, "tokenizer"))
        definition = Path(folder, "tokenizer").read_bytes()
    digest.update(b"%d " % len(definition) + definition)
    for text in texts:
        words = [text] if isinstance(text, str) else text
        digest.update(b"text " if isinstance(text, str) else b"%d words " % len(words))
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            digest.update(b"%d " % len(data) + data)
    return digest.hexdigest()


def _read(path: Path, number: int) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        ids, lengths = stored["ids"], stored["lengths"]
    if ids.dtype != np.int32 or lengths.shape != (number,) or ids.shape != (lengths.sum(),):
        raise ValueError(f"{ids.dtype} {ids.shape} in texts {lengths.shape}")
    bounds = np.cumsum([0, *lengths])
    return [ids[start:end] for start, end in itertools.pairwise(bounds)]


def _write(path: Path, found: Sequence[np.ndarray]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            ids=np.concatenate([*found, np.zeros(0, np.int32)]),
            lengths=np.array([len(ids) for ids in found], np.int64),
        )
