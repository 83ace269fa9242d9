"""N-gram models against a recursion over dictionaries, and files that are not valid."""

import gzip
import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import NGram

V = 4
WORDS = [None, "a", "b", "c"]


def sequences(seed=0, count=12):
    rng = np.random.default_rng(seed)
    return [list(rng.integers(1, V, rng.integers(0, 7))) for _ in range(count)]


def run(model, tokens):
    """Return log p of the next token after each of the given ones, `[N, T, V]`."""

    def read(state, token):
        log_p, state = model(token, state)
        return state, log_p

    state = model.initial_state(len(tokens))
    _, log_p = jax.jit(lambda ts: jax.lax.scan(read, state, ts.T))(jnp.asarray(tokens))
    return np.moveaxis(np.asarray(log_p), 0, 1)


def look_up(model, state, tokens):
    def step(state, tokens):
        state = model.advance(tokens, state)
        return model.log_prob(jnp.arange(V)[None], state), state

    return jax.jit(step)(state, tokens)


def witten_bell(data, history, token, order):
    """Return p by the definition: the counts are taken anew for each history."""
    if len(history) > order - 1:
        return witten_bell(data, history[1:], token, order)
    seen: Counter[int] = Counter()
    for sequence in data:
        read = [0, *map(int, sequence), 0]
        for at in range(max(1, len(history)), len(read)):
            if tuple(read[at - len(history) : at]) == history:
                seen[read[at]] += 1
    lower = witten_bell(data, history[1:], token, order) if history else 1 / V
    if not seen:
        return lower
    return (seen[token] + len(seen) * lower) / (seen.total() + len(seen))


@pytest.mark.quick("2")
@pytest.mark.parametrize("order", [1, 2, 3])
def test_counts_are_smoothed_as_the_definition_says(order):
    data = sequences()
    model = NGram.fit(data, order=order, vocabulary_size=V, begin=0, end=0)
    histories = np.array([[0, 1, 2, 3], [0, 3, 3, 1], [0, 2, 2, 2]])
    found = np.exp(run(model, histories))
    for row, t, token in itertools.product(range(3), range(4), range(V)):
        history = tuple(map(int, histories[row, : t + 1]))[-(order - 1) :] if order > 1 else ()
        wanted = witten_bell(data, history, token, order)
        np.testing.assert_allclose(found[row, t, token], wanted, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    # Large models have no table of all log p, and look up each token.
    state = model.initial_state(3)
    for t in range(4):
        log_p, state = look_up(model, state, histories[:, t])
        np.testing.assert_allclose(log_p, np.log(found[:, t]), rtol=1e-5)


ARPA = """made by a test
\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.5 <unk>
-99 <s> -0.4
-0.7 a -0.2
-0.9 b -0.1
-0.8 </s>
-1.1 odd -0.3

\\2-grams:
-0.3 <s> a -0.25
-0.6 a b -0.15
-0.5 b </s>
-0.2 odd a
-0.45 b a

\\3-grams:
-0.05 <s> a b
-0.35 a b a

\\end\\
"""


def test_arpa_backs_off(tmp_path):
    path = tmp_path / "model.arpa.gz"
    path.write_bytes(gzip.compress(ARPA.encode()))
    model = NGram.from_arpa(path, WORDS, begin=0, end=0)
    assert (model.order, model.vocabulary_size) == (3, V)
    found = run(model, np.array([[0, 1, 2], [0, 2, 1], [0, 3, 1]])) / math.log(10)
    wanted = {
        (0, 0, 1): -0.3,  # <s> a
        (0, 0, 2): -0.4 - 0.9,  # <s> b
        (0, 0, 0): -0.4 - 0.8,  # <s> </s>
        (0, 0, 3): -0.4 - 1.5,  # <s> <unk>
        (0, 1, 2): -0.05,  # <s> a b
        (0, 1, 1): -0.25 - 0.2 - 0.7,  # <s> a a
        (0, 2, 1): -0.35,  # a b a
        (0, 2, 0): -0.15 - 0.5,  # a b </s>
        (1, 1, 0): -0.5,  # b </s>, after <s> b, which is not listed
        (1, 2, 2): -0.6,  # b a b -> a b; "b a" has no backoff weight
        (2, 1, 1): -0.7,  # after a word that is not listed
        (2, 2, 2): -0.6,
    }
    for place, value in wanted.items():
        np.testing.assert_allclose(found[place], value, rtol=1e-5, err_msg=str(place))


def test_outputs_without_an_end_and_unknown_words():
    model = NGram.from_arpa(ARPA.splitlines(), ["a", "x", "<s>"], begin=2, unknown=-7.0)
    found = run(model, np.array([[2, 0]]))
    np.testing.assert_allclose(found[0, 0, 0], -0.3 * math.log(10), rtol=1e-5)
    np.testing.assert_allclose(found[0, 1, 1], -7.0 - 0.45 * math.log(10), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ngram 2=5", "ngram 2=4"), r"source: expected .*2: 4.* got .*2: 5"),
        (("\\end\\", ""), "source: expected an ARPA file"),
        (("\\data\\", ""), r"source: expected a line .data. before the n-grams"),
        (("-0.7 a -0.2", "0.7 a -0.2"), r"source: line 10: expected log10 p of at most 0, 1 words"),
        (("-0.6 a b -0.15", "-0.6 a"), "source: line 17"),
        (("ngram 3=2", "ngrams: 3"), "source: line 5: expected 'ngram N=COUNT'"),
        (("ngram 3=2\n", ""), "begins .*3-grams:, which the header lacks"),
        (("-1.5 <unk>\n", "-1.5 c\n"), None),
        (
            ("-1.5 <unk>\n", "-1.5 d\n"),
            r"tokens: expected tokens that the file lists.*1 of 3 .*\['c'\]",
        ),
    ],
)
def test_files_that_are_not_valid(change, message):
    lines = ARPA.replace(*change).splitlines()
    if message is None:
        NGram.from_arpa(lines, WORDS, begin=0, end=0)
        return
    with pytest.raises(ValueError, match=message):
        NGram.from_arpa(lines, WORDS, begin=0, end=0)


@pytest.mark.parametrize("sequences", [["call"], [1, 2], [[0.5]], [[[1]]], [[[1], [1, 2]]]])
def test_sequences_that_are_no_lists_of_ids(sequences):
    with pytest.raises(TypeError, match="sequences: expected lists of token ids, got"):
        NGram.fit(sequences, order=2, vocabulary_size=3, begin=0)


def test_a_model_of_words_cannot_score_letters():
    """`<unk>` may stand for a few tokens, not for most of them."""
    letters = [None, "a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match=r"3 of 5 that it does not list.*\['odd'\].*WordNGram"):
        NGram.from_arpa(ARPA.splitlines(), letters, begin=0)
    NGram.from_arpa(ARPA.splitlines(), letters[:5], begin=0)
    NGram.from_arpa(ARPA.splitlines(), letters, begin=0, unknown=-9.0)
    with pytest.raises(ValueError, match="2 of 2 that it does not list"):
        NGram.from_arpa(ARPA.splitlines(), [None, "A", "B"], begin=0, unknown=-9.0)


def test_refuses():
    with pytest.raises(ValueError, match="tokens: expected different tokens, got 'a' twice"):
        NGram.from_arpa(ARPA.splitlines(), ["a", "a"], begin=0)
    with pytest.raises(ValueError, match="begin: expected an id below V=4, got 4"):
        NGram.from_arpa(ARPA.splitlines(), WORDS, begin=4)
    with pytest.raises(ValueError, match="sequences: expected at least one token, got none"):
        NGram.fit([[]], order=2, vocabulary_size=V, begin=0)
    with pytest.raises(ValueError, match=r"sequences: expected values in \[0, 3\].*got 9"):
        NGram.fit([[1, 9]], order=2, vocabulary_size=V, begin=0)


def lines(*grams, order=1):
    """An ARPA file with these rows, in sections by the number of words."""
    sections: dict[int, list[str]] = {n: [] for n in range(1, order + 1)}
    for number, *rest in (gram.split("\t") for gram in grams):
        sections[len(rest[0].split(" "))].append("\t".join([number, *rest]))
    counts = [f"ngram {n}={len(rows)}" for n, rows in sections.items()]
    body = [line for n, rows in sections.items() for line in ["", f"\\{n}-grams:", *rows]]
    return ["\\data\\", *counts, *body, "", "\\end\\"]


ONE = ("-99\t<s>\t-0.3", "-0.5\ta\t-0.2", "-0.7\tb", "-0.9\tc", "-0.4\t</s>")


def test_a_history_that_is_not_listed_backs_off():
    """The trigram `<s> a c` counts although the bigram `<s> a` is missing."""
    file = lines(*ONE, "-0.5\ta b", "-0.01\t<s> a c", order=3)
    model = NGram.from_arpa(file, WORDS, begin=0, end=0)
    log_p = run(model, [[0, 1], [1, 1]]) / math.log(10)
    after_begin, after_a = log_p[0]
    np.testing.assert_allclose(after_begin, [-0.7, -0.8, -1.0, -1.2], rtol=1e-5)
    np.testing.assert_allclose(after_a, [-0.6, -0.7, -0.5, -0.01], rtol=1e-5)
    np.testing.assert_allclose(log_p[1, 1], [-0.6, -0.7, -0.5, -1.1], rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        (lines(*ONE[:4]), {"end": 0}, "end: expected a file with </s>"),
        (lines(*ONE), {"begin": 1, "end": 1}, "begin: expected an id of no word .* of 'a'"),
        (lines(*ONE), {"unknown": math.nan}, "unknown: expected a number, got nan"),
        (lines(*ONE), {"unknown": 5.0}, "unknown: expected at most 0, got 5.0"),
        (lines(*ONE, "-0.1\ta"), {}, r"line 10: expected each n-gram once, got '-0.1\\ta'"),
        (lines(*ONE, "-0.1\ta d", order=2), {}, "expected words of the 1-grams, got 'd'"),
    ],
)
def test_files_and_options_that_do_not_fit(file, options, message):
    with pytest.raises(ValueError, match=message):
        NGram.from_arpa(file, WORDS, **({"begin": 0} | options))


def test_bytes_of_files(tmp_path):
    text = "\n".join(lines(*ONE, "-0.8\tx\u00a0y"))
    tokens = [*WORDS, "x\u00a0y"]
    path = tmp_path / "model.arpa"
    path.write_text(text, "utf-8-sig")  # with a byte order mark
    assert NGram.from_arpa(path, tokens, begin=0, end=0).vocabulary_size == 5
    path.write_text(text, "latin-1")
    with pytest.raises(ValueError, match=r"source: expected text in UTF-8, .* got .*model.arpa"):
        NGram.from_arpa(path, tokens, begin=0)
    packed = gzip.compress(text.encode())
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=r"whose name ends in .gz"):
        NGram.from_arpa(path, tokens, begin=0)
    (tmp_path / "half.arpa.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"source: expected text in UTF-8"):
        NGram.from_arpa(tmp_path / "half.arpa.gz", tokens, begin=0)


def test_after_a_token_that_does_not_exist_scores_are_nan():
    model = NGram.fit(sequences(), order=2, vocabulary_size=V, begin=0, end=0)
    log_p, _ = model(jnp.array([V, -1, 1]), model.initial_state(3))
    assert jnp.isnan(log_p).all(axis=1).tolist() == [True, True, False]
