"""Forecasters against loops in NumPy, and what must not change their forecasts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from tests import references
from tests.cases import randomised

forecasting: Any = seqjax.forecasting
AutoregressiveForecaster = forecasting.AutoregressiveForecaster
DirectForecaster = forecasting.DirectForecaster
Gaussian, StudentT = forecasting.Gaussian, forecasting.StudentT
NegativeBinomial = forecasting.NegativeBinomial

RNG = np.random.default_rng(0)
T, H = 7, 4
VALUES = RNG.normal(2.0, 3.0, (2, T)).astype(np.float32)
VALUES[0, 3] = np.nan
LENGTHS = np.array([T, 5])
KNOWN = RNG.normal(size=(2, T, 2)).astype(np.float32)
FUTURE = RNG.normal(size=(2, H, 2)).astype(np.float32)
STATIC = RNG.normal(size=(2, 1)).astype(np.float32)
CODES = np.array([[2], [0]])
COVARIATES = {"known": KNOWN, "static": STATIC, "categories": CODES}
NAMES = {"known": ["price", "holiday"], "static": ["area"], "categories": {"shop": 3}}


@functools.cache
def autoregressive(distribution=Gaussian(), scaling="standard"):  # noqa: B008
    return randomised(
        lambda: AutoregressiveForecaster(
            4, distribution, cell="elman", lags=(1, 3), scaling=scaling, **NAMES, rngs=nnx.Rngs(0)
        )
    )


@functools.cache
def direct():
    return randomised(
        lambda: DirectForecaster(4, H, Gaussian(), season=3, seasons=2, cell="elman", **NAMES,
                         rngs=nnx.Rngs(0))
    )  # fmt: skip


def arrays(leaf):
    return np.asarray(leaf[...], np.float64)


def series_features(model, n):
    return [*STATIC[n], *arrays(model.covariates.embeddings[0].embedding)[CODES[n, 0]]]


def scale_of(values):
    """The scaling "standard" of a series without NaN, in float64."""
    return values.mean(), np.hypot(values.std(), 1e-3 * np.abs(values).mean())


def cell_of(recurrent):
    layer = recurrent.layers[0].forward
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer.params)
    return lambda x, h: references.elman(layer.cell, params, np.asarray(x, np.float64), h)


def outputs_of(head, h):
    return h @ arrays(head.kernel) + arrays(head.bias)


def softplus(x):
    return np.log1p(np.exp(x)) + 1e-5


def twin(model, n, known, horizon=0, length=None):
    """The mean and the deviation of each step, and of the steps after it if means are read."""
    row = VALUES[n, : LENGTHS[n] if length is None else length].astype(float)
    loc, scale = scale_of(row[~np.isnan(row)])
    z = list((row - loc) / scale)
    step, h, found = cell_of(model.layer), np.zeros(4), []
    for t in range(len(row) + horizon):
        lagged = [z[t - lag] if t >= lag else np.nan for lag in (1, 3)]
        seen = [float(not np.isnan(value)) for value in lagged]
        x = [*np.nan_to_num(lagged), *seen, *known[t], *series_features(model, n), np.log(scale)]
        h, output = step(x, h)
        first, second = outputs_of(model.head, output)
        found.append((loc + scale * first, scale * softplus(second)))
        if t >= len(row):
            z.append(first)
    return np.array(found).T


def test_a_call_is_the_loop_of_the_paper():
    model = autoregressive()
    params = jax.jit(lambda model: model(VALUES, **COVARIATES, lengths=LENGTHS))(model)
    for n, length in enumerate(LENGTHS):
        mean, deviation = twin(model, n, KNOWN[n])
        np.testing.assert_allclose(params["mean"][n, :length], mean, rtol=2e-4, atol=1e-4)
        np.testing.assert_allclose(params["deviation"][n, :length], deviation, rtol=2e-4)
    losses = [
        np.log(deviation) + 0.5 * ((VALUES[n, : LENGTHS[n]] - mean) / deviation) ** 2
        for n in range(2)
        for mean, deviation in [twin(model, n, KNOWN[n])]
    ]
    loss = jax.jit(lambda model: model.loss(VALUES, **COVARIATES, lengths=LENGTHS))(model)
    expected = np.nanmean(np.concatenate(losses)) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def samples_of(model, values=VALUES, **options):
    given = {"horizon": H, "num_samples": 3, "future_known": FUTURE, "lengths": LENGTHS}
    given |= COVARIATES | options
    return np.asarray(model.sample(values, jax.random.key(0), **given))


@pytest.mark.quick()
def test_without_noise_samples_are_the_recursion():
    """Lags, covariates, scale and state go on where a series ends, beyond any trained horizon."""
    model = nnx.clone(autoregressive())
    kernel, bias = np.array(model.head.kernel[...]), np.array(model.head.bias[...])
    kernel[:, 1], bias[1] = 0.0, -100.0
    model.head.kernel[...], model.head.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    for lengths in (LENGTHS, np.array([T, 2])):  # the longest lag is three steps
        samples = samples_of(model, lengths=lengths)
        assert samples.shape == (2, H, 3)
        for n, length in enumerate(lengths):
            known = np.concatenate([KNOWN[n, :length], FUTURE[n]])
            mean, _ = twin(model, n, known, horizon=H, length=length)
            expected = np.broadcast_to(mean[length:, None], (H, 3))
            np.testing.assert_allclose(samples[n], expected, rtol=1e-3, atol=2e-3)


@pytest.mark.quick()
@pytest.mark.parametrize(
    ("distribution", "values"),
    [(StudentT(), VALUES), (NegativeBinomial(), np.round(np.abs(VALUES)))],
    ids=["student_t", "negative_binomial"],
)
def test_the_first_step_has_the_moments_of_the_distribution(distribution, values):
    model = autoregressive(distribution, "absolute")
    options = {"horizon": 1, "num_samples": 4000, "future_known": FUTURE[:, :1], "lengths": [T, T]}
    samples = samples_of(model, values, **options)[:, 0]
    longer = np.concatenate([values, np.full((2, 1), np.nan, np.float32)], axis=1)
    given = COVARIATES | {"known": np.concatenate([KNOWN, FUTURE[:, :1]], axis=1)}

    @jax.jit
    def direct(model, key):
        params = jax.tree.map(lambda array: array[:, T], model(longer, **given, context=T))
        keys = jax.random.split(key, 4000)
        return jax.vmap(distribution.sample, in_axes=(None, 0))(params, keys).T

    expected = np.asarray(direct(model, jax.random.key(5)))
    for level in (0.1, 0.25, 0.5, 0.75, 0.9):
        ends = np.quantile(expected, level, axis=1, keepdims=True)
        shares = (samples <= ends).mean(axis=1) - (expected <= ends).mean(axis=1)
        np.testing.assert_allclose(shares, 0, atol=5 * np.sqrt(0.5 / 4000))


@pytest.mark.quick()
def test_samples_depend_neither_on_the_horizon_nor_on_the_batch():
    model = autoregressive()
    both = samples_of(model)
    shorter = samples_of(model, horizon=2, future_known=FUTURE[:, :2])
    np.testing.assert_array_equal(shorter, both[:, :2])
    assert len(np.unique(both[0, 0])) == 3 and (both[0, 0] != both[1, 0]).all()
    # A series of five steps alone, at the end of a longer array, and padded with NaN at the end.
    covariates = {"static": STATIC[1:], "categories": CODES[1:], "future_known": FUTURE[1:]}
    ahead = [(0, 0), (2, 0)]
    mask = np.arange(T)[None] >= 2
    moved = {
        "known": np.pad(KNOWN[1:, :5], [*ahead, (0, 0)], constant_values=np.nan), "mask": mask,
        "lengths": None,
    }  # fmt: skip
    at_end = samples_of(model, np.pad(VALUES[1:, :5], ahead), **covariates, **moved)
    dirty = np.array(VALUES[1:])
    dirty[:, 5:] = np.nan
    padding = np.array(KNOWN[1:])
    padding[:, 5:] = np.inf
    alone = samples_of(model, dirty, **covariates, known=padding, lengths=LENGTHS[1:])
    np.testing.assert_allclose(at_end, alone, rtol=1e-5)
    assert np.isfinite(alone).all()


@pytest.mark.quick()
def test_a_forecast_of_a_series_without_values():
    samples = samples_of(autoregressive(), lengths=[0, 5])
    whole = samples_of(autoregressive())
    assert np.isfinite(samples).all()
    np.testing.assert_allclose(samples[1], whole[1], rtol=1e-5)
    nothing = samples_of(
        autoregressive(), VALUES[:, :0], known=KNOWN[:, :0], lengths=None, horizon=4
    )
    np.testing.assert_allclose(nothing[0], samples[0], rtol=1e-5)
    empty = samples_of(
        autoregressive(), VALUES[:0], known=KNOWN[:0], lengths=None, static=STATIC[:0],
        categories=CODES[:0], future_known=FUTURE[:0],
    )  # fmt: skip
    assert empty.shape == (0, H, 3)


@pytest.mark.quick()
def test_missing_values_and_padding_do_not_reach_gradients():
    @jax.jit
    def gradients(model, values, known):
        def total(model):
            return model.loss(
                values, known=known, static=STATIC, categories=CODES, lengths=LENGTHS, context=4
            )

        return jax.value_and_grad(total)(model)

    def checked(model, values, known):
        loss, gradient = gradients(model, values, known)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
        assert all(np.isfinite(leaf).all() for leaf in leaves) and np.isfinite(loss)
        return leaves

    for distribution, values in ((Gaussian(), VALUES), (NegativeBinomial(), np.abs(VALUES) // 1)):
        model = autoregressive(distribution, "absolute")
        clean = checked(model, values, KNOWN)
        padded, known = np.array(values), np.array(KNOWN)
        padded[1, 5:], known[1, 5:] = np.nan, np.nan
        for one, other in zip(clean, checked(model, padded, known), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        checked(model, np.full_like(values, np.nan), KNOWN)
        checked(model, np.zeros_like(values), KNOWN)


def test_the_scale_is_that_of_the_context():
    """In training, the scale does not depend on the values that are predicted."""
    model = autoregressive()
    call = jax.jit(lambda values: model(values, **COVARIATES, context=4)["mean"])
    changed = np.array(VALUES)
    changed[:, 5] += 100.0
    before, after = np.asarray(call(VALUES)), np.asarray(call(changed))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (before[:, 6] != after[:, 6]).all()


def test_direct_is_the_loop_of_its_docstring():
    model = direct()
    params = jax.jit(
        lambda model: model(VALUES, **COVARIATES, future_known=FUTURE, lengths=LENGTHS)
    )(model)
    for n, length in enumerate(LENGTHS):
        row = VALUES[n, :length].astype(float)
        loc, scale = scale_of(row[~np.isnan(row)])
        z = (row - loc) / scale
        z[np.isnan(z)] = z[2]  # step 3 is missing
        h, read, write = np.zeros(4), cell_of(model.reader), cell_of(model.writer)
        for t in range(length):
            h, _ = read([z[t], *KNOWN[n, t], *series_features(model, n)], h)
        for step in range(H):
            # Two seasons of three steps before; the fourth step reads what the first one reads.
            places = [length - 6 + step % 3, length - 3 + step % 3, length - 1]
            before = np.array([z[max([p for p in places[n:] if p >= 0][:1])] for n in range(3)])
            h, output = write([*before, *FUTURE[n, step], *series_features(model, n)], h)
            first, second = outputs_of(model.head, output)
            mean = loc + scale * (first + arrays(model.weights)[step] @ before)
            np.testing.assert_allclose(params["mean"][n, step], mean, rtol=1e-3, atol=1e-4)
            deviation = scale * softplus(second)
            np.testing.assert_allclose(params["deviation"][n, step], deviation, rtol=1e-3)


@pytest.mark.quick()
def test_seasons_that_do_not_exist_are_replaced():
    """By the next season; by the last value if there is no other season."""
    model = DirectForecaster(
        4, 3, Gaussian(), season=2, seasons=2, scaling="absolute", rngs=nnx.Rngs(0)
    )
    model.head.kernel[...] = jnp.zeros_like(model.head.kernel[...])

    def means(row, **options):
        return model(np.array([row]), **options)["mean"][0]

    np.testing.assert_allclose(means([100.0]), [100.0] * 3, rtol=1e-6)
    # For the steps of one season: [none, 2, 7], [3, 7, 7].
    np.testing.assert_allclose(means([3.0, 2.0, 7.0]), [11 / 3, 17 / 3, 11 / 3], rtol=1e-6)
    padded = means([3.0, 2.0, 7.0, 0.0], lengths=[3])
    np.testing.assert_allclose(padded, [11 / 3, 17 / 3, 11 / 3], rtol=1e-6)
    np.testing.assert_allclose(means([np.nan, 3.0, 2.0, 7.0]), [11 / 3, 17 / 3, 11 / 3], rtol=1e-6)
    assert means([np.nan]).tolist() == [0.0] * 3


@pytest.mark.quick()
def test_the_pinball_loss_does_not_depend_on_the_unit():
    quantiles, values = forecasting.Quantiles(), np.array([[1.0, 3.0, 2.0, 6.0]])
    targets = np.array([[7.0, np.nan]])
    model = DirectForecaster(4, 2, rngs=nnx.Rngs(0))
    scale = np.hypot(np.std(values), 3e-3)
    expected = forecasting.loss(quantiles, model(values), targets) / scale
    for unit in (1e-4, 1.0, 1e4):
        loss = model.loss(unit * values, unit * targets)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
    model = AutoregressiveForecaster(4, quantiles, rngs=nnx.Rngs(0))
    expected = forecasting.loss(quantiles, model(values, context=2), values) / 2
    np.testing.assert_allclose(model.loss(values, context=2), expected, rtol=1e-5)
    model = AutoregressiveForecaster(4, quantiles, scaling="none", rngs=nnx.Rngs(0))
    expected = forecasting.loss(quantiles, model(values), values)
    np.testing.assert_allclose(model.loss(values), expected, rtol=1e-6)


@pytest.mark.quick()
def test_tiny_values_have_a_finite_loss():
    for scaling in ("absolute", "standard"):
        model = AutoregressiveForecaster(4, Gaussian(), scaling=scaling, rngs=nnx.Rngs(0))
        assert np.isfinite(model.loss(np.array([[1e-37, 2e-37]])))


def test_filler_rows_are_no_targets():
    model, padded = direct(), {name: np.concatenate([a, 0 * a]) for name, a in COVARIATES.items()}
    targets = RNG.normal(size=(2, H)).astype(np.float32)
    alone = model.loss(VALUES, targets, **COVARIATES, future_known=FUTURE)
    both = model.loss(
        np.concatenate([VALUES, 0 * VALUES]), np.concatenate([targets, 0 * targets]), **padded,
        future_known=np.concatenate([FUTURE, 0 * FUTURE]),
        mask=np.arange(4)[:, None] + np.zeros((4, T)) < 2,
        target_mask=np.arange(4)[:, None] + np.zeros((4, H)) < 2,
    )  # fmt: skip
    np.testing.assert_allclose(both, alone, rtol=1e-5)


def test_impossible_values_are_nan_under_tracing():
    """Only in the series that has them."""
    values = np.array([[1.0, -7.0, 2.0], [3.0, 0.0, 2.0]], np.float32)
    counts = NegativeBinomial()
    for model in (
        AutoregressiveForecaster(3, counts, rngs=nnx.Rngs(0)),
        DirectForecaster(3, 2, counts, rngs=nnx.Rngs(0)),
    ):
        means = jax.jit(lambda model, v: model(v)["mean"])(model, values)
        assert jnp.isnan(means[0]).all() and jnp.isfinite(means[1]).all()
    samples = jax.jit(lambda v: model.sample(v, jax.random.key(0), num_samples=3))(values)
    assert jnp.isnan(samples[0]).all() and jnp.isfinite(samples[1]).all()
    targets = np.ones((2, 2))
    assert jnp.isnan(jax.jit(lambda v: model.loss(v, targets))(values))


def test_a_random_key_is_used_once():
    """The dropout of the reader, of the writer and of the head differ, as with nnx.Rngs."""
    model = DirectForecaster(4, H, Gaussian(), num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    key = jax.random.key(1)
    means = [model(VALUES, deterministic=False, rngs=r)["mean"] for r in (key, nnx.Rngs(key))]
    np.testing.assert_array_equal(*means)


@pytest.mark.quick()
@pytest.mark.parametrize("kind", ["autoregressive", "direct"])
def test_recurrent_layers_in_bfloat16(kind):
    """The parameters of distributions and the samples are float32, and as with float32."""
    first = {"autoregressive": (4,), "direct": (4, H)}[kind]
    made: Any = {"autoregressive": AutoregressiveForecaster, "direct": DirectForecaster}[kind]
    options = NAMES | {"distribution": Gaussian(), "cell": "gru"}
    given: dict[str, Any] = dict(COVARIATES)
    drawn: dict[str, Any] = given | {"future_known": FUTURE}
    if kind == "direct":
        given = drawn
    else:
        drawn = drawn | {"horizon": H}
    found = {}
    for dtype in (None, jnp.bfloat16):
        options["dtype"] = dtype
        model = randomised(lambda: made(*first, **options, rngs=nnx.Rngs(0)))
        found[dtype] = model(VALUES, deterministic=True, **given)
        samples = model.sample(VALUES, jax.random.key(0), num_samples=3, **drawn)
        assert samples.dtype == jnp.float32 and samples.shape == (2, H, 3)
    assert found[jnp.bfloat16]["mean"].dtype == jnp.float32
    error = np.abs(found[jnp.bfloat16]["mean"] - found[None]["mean"])
    assert 0 < np.nanmax(error) < 0.05 * np.nanstd(VALUES)


@pytest.mark.quick()
def test_samples_and_losses_of_direct_forecasts():
    model = direct()
    given = COVARIATES | {"future_known": FUTURE}
    targets = np.array([[1.0, np.nan, 2.0, 3.0]] * 2)

    @jax.jit
    def run(model, values):
        params = model(values, **given)
        losses = model.loss(values, targets, **given), forecasting.loss(Gaussian(), params, targets)
        return params, losses

    params, (loss, expected) = jax.device_get(run(model, VALUES))
    samples = np.asarray(model.sample(VALUES, jax.random.key(0), num_samples=2000, **given))
    assert samples.shape == (2, H, 2000)
    np.testing.assert_allclose(
        (samples.mean(-1) - params["mean"]) / params["deviation"], 0, atol=5 / np.sqrt(2000)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    counts = randomised(lambda: DirectForecaster(3, 2, NegativeBinomial(), rngs=nnx.Rngs(0)))
    assert counts.scaling == "absolute"
    loss = jax.jit(lambda model: model.loss(np.ones((2, 3)), np.ones((2, 2))))(counts)
    assert np.isfinite(loss)


def refused(model, **changes):
    return lambda: samples_of(model(), **changes)


def made(**options):
    return lambda: randomised(lambda: AutoregressiveForecaster(3, **options, rngs=nnx.Rngs(0)))


NAN = np.where(np.arange(2) == 1, np.nan, FUTURE)
WRONG = {
    "no future": (
        refused(autoregressive, future_known=None),
        "future_known: expected the known covariates 'price', 'holiday' of the 4 steps of the "
        "forecast, got None",
    ),
    "short future": (
        refused(autoregressive, horizon=9),
        r"future_known: expected shape \(2, 9, 2\), the covariates 'price', 'holiday' of the 9 "
        r"steps of the forecast, got \(2, 4, 2\)",
    ),
    "NaN": (refused(autoregressive, future_known=NAN), "NaN or inf in 'holiday'"),
    "no known": (refused(autoregressive, known=None), "known: .*'price'.* 7 steps of values"),
    "no static": (refused(autoregressive, static=None), "static: expected the features 'area'"),
    "no codes": (refused(autoregressive, categories=None), "categories: .* 'shop'"),
    "static": (refused(autoregressive, static=STATIC[:1]), r"static: expected shape \(2, 1\)"),
    "code": (refused(autoregressive, categories=CODES + 1), r"'shop': expected values in \[0, 2\]"),
    "float code": (refused(autoregressive, categories=CODES + 0.5), "categories: expected"),
    "horizon": (refused(autoregressive, horizon=0), "horizon: expected a positive integer"),
    "number": (refused(autoregressive, num_samples=0), "num_samples: expected a positive integer"),
    "lengths": (refused(autoregressive, lengths=[8, 1]), "lengths: expected 0 to 7"),
    "text": (refused(autoregressive, values=["a"]), "values: expected"),
    "unknown": (
        lambda: made()().sample(VALUES, jax.random.key(0), horizon=1, known=KNOWN),
        "known: expected None, since the model has no known covariates",
    ),
    "key": (lambda: made()().sample(VALUES, 0, horizon=1), "key: expected a random key"),
    "context": (lambda: made()()(VALUES, context=0), "context: expected a positive integer"),
    "long context": (lambda: made()()(VALUES, context=8), "context: expected at most 7 steps"),
    "lags": (made(lags=()), "lags: expected at least one"),
    "long lag": (
        lambda: made(lags=[1, 7])().loss(VALUES),
        "values: expected more than 7 steps, the largest of the lags, got 7",
    ),
    "lag 0": (made(lags=[0]), "lags: expected"),
    "lag twice": (made(lags=[1, 1]), "lags: expected"),
    "names": (made(known="price"), "known: expected a list of names"),
    "no names": (made(known=2), "known: expected a list of names, got 2"),
    "name twice": (made(known=["a", "a"]), "known: expected no name twice"),
    "sizes": (made(categories=["shop"]), "categories: expected a dict"),
    "scaling": (made(scaling="mean"), "scaling: expected one of"),
    "no location": (
        made(distribution=NegativeBinomial(), scaling="standard"),
        'scaling: expected "absolute" or "none" for NegativeBinomial',
    ),
    "distribution": (made(distribution="gaussian"), "distribution: expected"),
    "cell": (made(cell="lsmt"), "did you mean 'lstm'"),
    "no count": (
        lambda: made(distribution=NegativeBinomial())().sample(
            np.array([[1.0, -1.0]]), jax.random.key(0), horizon=1
        ),
        "values: expected counts .*, or NaN for missing values, got -1.0",
    ),
    "infinite": (lambda: made()()(np.array([[1.0, np.inf]])), "values: expected .* got inf"),
    "direct": (
        lambda: direct()(VALUES, **COVARIATES, future_known=FUTURE[:, :2]),
        r"future_known: expected shape \(2, 4, 2\)",
    ),
    "seasons": (
        lambda: randomised(lambda: DirectForecaster(3, 2, season=0, rngs=nnx.Rngs(0))),
        "season: expected a positive integer",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()
