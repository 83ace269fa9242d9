"""Distributions, their losses and scores, against SciPy and brute force in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import seqjax

forecasting: Any = seqjax.forecasting
Gaussian, StudentT = forecasting.Gaussian, forecasting.StudentT
NegativeBinomial, Quantiles = forecasting.NegativeBinomial, forecasting.Quantiles
f32: Any = np.float32

RNG = np.random.default_rng(0)
N = 12
PARAMS = {
    Gaussian(): {"mean": RNG.normal(0, 3, N), "deviation": RNG.uniform(0.1, 4, N)},
    StudentT(): {
        "df": RNG.uniform(2.1, 9, N), "loc": RNG.normal(0, 3, N), "scale": RNG.uniform(0.1, 4, N)
    },
    NegativeBinomial(): {
        "mean": RNG.uniform(0.1, 20, N), "dispersion": RNG.uniform(0.05, 3, N)
    },
}  # fmt: skip
VALUES = {
    Gaussian(): RNG.normal(0, 5, N),
    StudentT(): RNG.normal(0, 5, N),
    NegativeBinomial(): np.concatenate([[0.0, 1.0], RNG.integers(0, 30, N - 2)]),
}
DENSE = [Gaussian(), StudentT(), NegativeBinomial()]
each = pytest.mark.parametrize("distribution", DENSE, ids=lambda one: type(one).__name__)


def pairs(first, second):
    return zip(first, second, strict=True)


def of_scipy(distribution, params):
    if isinstance(distribution, Gaussian):
        return stats.norm(params["mean"], params["deviation"])
    if isinstance(distribution, StudentT):
        return stats.t(params["df"], params["loc"], params["scale"])
    number = 1 / params["dispersion"]
    return stats.nbinom(number, number / (number + params["mean"]))


def log_density(distribution, params, values):
    found = of_scipy(distribution, params)
    return (found.logpmf if isinstance(distribution, NegativeBinomial) else found.logpdf)(values)


@each
def test_losses_are_the_negative_log_densities_of_scipy(distribution, x64):
    found = jax.jit(distribution.losses)(PARAMS[distribution], VALUES[distribution])
    assert found.dtype == jnp.float64
    expected = -log_density(distribution, PARAMS[distribution], VALUES[distribution])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.quick()
def test_losses_are_accurate_in_float32_for_extreme_parameters():
    """Counts of many digits, dispersions near 0 (Poisson), and degrees of freedom near infinity."""
    counts = np.array([0, 1, 7, 1000, 123_456, 0, 3, 2_000_000], float)
    params = {
        "mean": np.array([0.001, 2.0, 8.0, 1100.0, 120_000.0, 30.0, 3.0, 1_999_000.0]),
        "dispersion": np.array([1e-5, 1e-6, 1e-5, 1e-3, 1e-6, 5.0, 100.0, 1e-5]),
    }
    params = {name: f32(array).astype(float) for name, array in params.items()}
    found = jax.jit(NegativeBinomial().losses)(jax.tree.map(jnp.float32, params), counts)
    r = 1 / params["dispersion"]
    expected = -stats.nbinom(r, 1 / (1 + params["dispersion"] * params["mean"])).logpmf(counts)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5)
    # Counts far from the mean: the terms of the density are 10⁸ times as large as their sum.
    params = {"mean": f32([3e7, 3e7, 1e7, 2e6, 9.0]), "dispersion": f32([0.1, 0.1, 1, 1e-3, 1e-5])}
    counts = f32([6e7, 5e7, 5e7, 2.5e6, 4000.0])
    found = jax.jit(NegativeBinomial().losses)(params, counts)
    exact = [20.754359, 19.061920, 21.118096, 39.041099, 20_322.791]  # with 50 digits
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    params = {"df": np.array([2.0, 50.0, 1e4, 1e7]), "loc": np.zeros(4), "scale": np.ones(4)}
    found = jax.jit(StudentT().losses)(jax.tree.map(jnp.float32, params), f32(0.7))
    np.testing.assert_allclose(found, -stats.t(params["df"]).logpdf(f32(0.7)), rtol=1e-6)


@pytest.mark.parametrize("distribution", [Gaussian(), StudentT()], ids=["gaussian", "student_t"])
def test_the_closed_crps_is_the_integral(distribution, x64):
    params, values = PARAMS[distribution], VALUES[distribution]
    found = jax.jit(distribution.crps)(params, values)
    for n in range(0, N, 3):
        known = of_scipy(distribution, {name: array[n] for name, array in params.items()})
        below = integrate.quad(lambda x: known.cdf(x) ** 2, -np.inf, values[n])[0]  # noqa: B023
        above = integrate.quad(lambda x: known.sf(x) ** 2, values[n], np.inf)[0]  # noqa: B023
        np.testing.assert_allclose(found[n], below + above, rtol=1e-5)


@pytest.mark.quick()
def test_gradients_of_large_and_small_parameters():
    """The derivative of a / b by JAX contains b**-2, which float32 cannot represent here."""

    def slope(distribution, name, value, y, **others):
        def total(params):
            return distribution.losses(params, f32(y))

        return jax.jit(jax.grad(total))(jax.tree.map(jnp.float32, others | {name: value}))[name]

    for mean, alpha, y in ((1e10, 0.1, 2e10), (4e12, 0.01, 1e12), (5.0, 0.5, 8.0), (3.0, 2.0, 0.0)):
        found = slope(NegativeBinomial(), "mean", mean, y, dispersion=alpha)
        np.testing.assert_allclose(found, (mean - y) / (mean * (1 + alpha * mean)), rtol=1e-5)
    for mean in (0.0, 1e-20):
        assert slope(NegativeBinomial(), "mean", mean, 0.0, dispersion=0.5) == 1.0
    for scale in (1e-30, 1e-21, 1.0, 1e20, 1e30):
        found = slope(Gaussian(), "deviation", scale, 3 * scale, mean=0.0)
        np.testing.assert_allclose(found, (1 - 3**2) / scale, rtol=1e-5)
        found = slope(StudentT(), "scale", scale, 3 * scale, df=5.0, loc=0.0)
        np.testing.assert_allclose(found, (1 - 6 * 9 / (5 + 9)) / scale, rtol=1e-5)
        found = slope(Gaussian(), "mean", 0.0, 3 * scale, deviation=scale)
        np.testing.assert_allclose(found, -3 / scale, rtol=1e-5)
    second = jax.hessian(lambda s: Gaussian().losses({"mean": 0.0, "deviation": s}, 3.0))(2.0)
    np.testing.assert_allclose(second, 3 * 9 / 2**4 - 1 / 2**2, rtol=1e-5)


CRPS_OF_T = {  # of 1.0 for the degrees of freedom, with 40 digits
    2.5: 0.6130763332737411, 50.0: 0.6022777917816923, 199.0: 0.6023944309796734,
    201.0: 0.6023948787612781, 1000.0: 0.6024317098813654, 3e4: 0.6024410335649075,
    1e8: 0.602441357530372,
}  # fmt: skip


def crps_of_t():
    df = jnp.asarray(list(CRPS_OF_T), float)
    return StudentT().crps({"df": df, "loc": jnp.zeros_like(df), "scale": jnp.ones_like(df)}, 1.0)


@pytest.mark.quick()
def test_the_crps_of_many_degrees_of_freedom():
    np.testing.assert_allclose(crps_of_t(), list(CRPS_OF_T.values()), rtol=2e-5)
    inside = 1 - 2 * stats.t.sf(1.5, 1e5)
    expected = 1.5 * inside + 2 * stats.norm.pdf(1.5) - 1 / np.sqrt(np.pi)  # almost Gaussian
    params = {"df": f32(1e5), "loc": f32(0), "scale": f32(2)}
    np.testing.assert_allclose(StudentT().crps(params, f32(-3)), 2 * expected, rtol=1e-4)


def test_the_crps_of_many_degrees_of_freedom_in_float64(x64):
    np.testing.assert_allclose(crps_of_t(), list(CRPS_OF_T.values()), rtol=1e-9)


@pytest.mark.quick("Gaussian")
@each
def test_samples_follow_the_distribution(distribution):
    params = {name: f32(array[:4]) for name, array in PARAMS[distribution].items()}
    keys = jax.random.split(jax.random.key(1), 4000)
    draw = jax.jit(jax.vmap(distribution.sample, in_axes=(None, 0)))
    samples = np.asarray(draw(params, keys))
    known = of_scipy(distribution, jax.tree.map(np.float64, params))
    expected = np.asarray(distribution.mean(params))
    np.testing.assert_allclose(expected, known.mean(), rtol=1e-5)
    for level in (0.1, 0.5, 0.9):  # the share of samples up to the quantile of SciPy
        ends = known.ppf(level)
        share = (samples <= ends).mean(axis=0)
        np.testing.assert_allclose(share, known.cdf(ends), atol=5 * np.sqrt(0.25 / 4000))


@pytest.mark.quick()
def test_rare_and_huge_counts_are_drawn():
    params = {"mean": jnp.array([0.01, 3e9, 5.0]), "dispersion": jnp.array([50.0, 1e-6, 1e-5])}
    draw = jax.jit(jax.vmap(NegativeBinomial().sample, in_axes=(None, 0)))
    samples = np.asarray(draw(params, jax.random.split(jax.random.key(0), 2000)), np.float64)
    assert (samples >= 0).all() and (samples == np.round(samples)).all()
    np.testing.assert_allclose(samples[:, 1].mean(), 3e9, rtol=1e-3)
    np.testing.assert_allclose(samples[:, 1].std(), 3e6, rtol=0.1)
    np.testing.assert_allclose(samples[:, 2].var(), 5.0, rtol=0.2)
    assert (samples[:, 0] == 0).mean() > 0.95


@each
def test_parameters_scale_with_the_series(distribution):
    outputs = jnp.asarray(RNG.normal(size=(5, distribution.size)), jnp.float32)
    plain, scaled = distribution.params(outputs), distribution.params(outputs, scale=100.0)
    if isinstance(distribution, NegativeBinomial):
        np.testing.assert_allclose(scaled["mean"], 100 * plain["mean"], rtol=1e-6)
        np.testing.assert_allclose(scaled["dispersion"], plain["dispersion"] / 10, rtol=1e-6)
        return
    moved = distribution.params(outputs, loc=7.0, scale=100.0)
    # p(100 z + 7) = p(z) / 100
    z = jnp.linspace(-2.0, 2.0, 5)
    plain_loss, moved_loss = (
        distribution.losses(*pair) for pair in ((plain, z), (moved, 100 * z + 7))
    )
    np.testing.assert_allclose(moved_loss, plain_loss + np.log(100), rtol=1e-4, atol=1e-4)
    assert scaled.keys() == plain.keys()


@pytest.mark.quick()
def test_extreme_outputs_give_finite_losses_and_gradients():
    for distribution in DENSE:
        outputs = jnp.array([[-200.0], [0.0], [50.0]]) * jnp.ones(distribution.size)

        def total(outputs, distribution=distribution):
            return distribution.losses(
                distribution.params(outputs), jnp.array([0.0, 1.0, 2.0])
            ).sum()

        value, gradient = jax.jit(jax.value_and_grad(total))(outputs)
        assert np.isfinite(value) and np.isfinite(gradient).all(), distribution


def test_quantiles_do_not_cross_and_are_scored_by_pinball():
    levels = (0.05, 0.3, 0.5, 0.8)
    distribution = Quantiles(levels)
    outputs = RNG.normal(size=(6, 4)).astype(np.float32)
    params = np.asarray(distribution.params(outputs, loc=f32(3.0), scale=f32(2.0)))
    gaps = np.log1p(np.exp(outputs.astype(float)))
    middle = outputs[:, 2]
    expected = np.stack(
        [middle - gaps[:, 0] - gaps[:, 1], middle - gaps[:, 1], middle, middle + gaps[:, 3]], -1
    )
    np.testing.assert_allclose(params, 3 + 2 * expected, rtol=1e-5)
    assert (np.diff(params, axis=-1) > 0).all()
    values = RNG.normal(3, 2, 6)
    losses = [
        np.mean([max(level * (y - q), (level - 1) * (y - q)) for level, q in pairs(levels, row)])
        for y, row in pairs(values, params.astype(float))
    ]
    np.testing.assert_allclose(distribution.losses(params, values), losses, rtol=1e-5)
    np.testing.assert_allclose(distribution.crps(params, values), 2 * np.array(losses), rtol=1e-5)


def test_samples_of_quantiles_interpolate():
    distribution = Quantiles((0.1, 0.5, 0.9))
    params = jnp.array([[-4.0, 0.0, 1.0]])
    draw = jax.jit(jax.vmap(distribution.sample, in_axes=(None, 0)))
    samples = np.asarray(draw(params, jax.random.split(jax.random.key(0), 8000)))
    # A tenth of the samples is at each end; the others are uniform on both sides of the median.
    np.testing.assert_allclose((samples == -4).mean(), 0.1, atol=0.02)
    np.testing.assert_allclose((samples == 1).mean(), 0.1, atol=0.02)
    np.testing.assert_allclose((samples <= -2).mean(), 0.3, atol=0.03)
    np.testing.assert_allclose((samples <= 0.5).mean(), 0.7, atol=0.03)
    np.testing.assert_allclose(distribution.mean(params), samples.mean(), atol=0.08)
    assert Quantiles((0.5,)).sample(jnp.array([[2.0]]), jax.random.key(0)).tolist() == [2.0]
    np.testing.assert_allclose(Quantiles((0.5,)).mean(jnp.array([[2.0]])), [2.0])


def brute_crps(samples, y, fair):
    number = len(samples)
    pairs = np.abs(samples[:, None] - samples).sum()
    return np.abs(samples - y).mean() - pairs / (2 * number * (number - 1 if fair else number))


def test_crps_of_samples():
    samples = RNG.normal(2.0, 3.0, (2, 3, 11)).astype(np.float32)
    targets = RNG.normal(2.0, 3.0, (2, 3)).astype(np.float32)
    targets[0, 1] = np.nan
    samples[1, 2] = np.nan  # padding
    lengths = np.array([3, 2])
    real = [(0, 0), (0, 2), (1, 0), (1, 1)]
    for fair in (False, True):
        found = forecasting.crps(samples, targets, lengths=lengths, fair=fair)
        expected = [brute_crps(samples[n].astype(float), float(targets[n]), fair) for n in real]
        assert int(found.count) == 4
        np.testing.assert_allclose(found.value(), np.mean(expected), rtol=1e-5)
    # The integral of the squared distance of the distribution functions.
    one, y = samples[0, 0].astype(float), float(targets[0, 0])
    x = np.linspace(-30, 30, 300_001)
    step = (one[:, None] <= x).mean(axis=0) - (x >= y)
    np.testing.assert_allclose(brute_crps(one, y, False), np.trapezoid(step**2, x), rtol=1e-3)
    exact = forecasting.crps(f32([[[5.0]]]), f32([[3.0]]))
    assert float(exact.value()) == 2.0
    far = forecasting.crps(f32([[[1e6 + 1, 1e6]]]), f32([[1e6]]))
    np.testing.assert_allclose(far.value(), 0.25)  # no digits are lost


def test_quantile_loss_and_coverage():
    quantiles = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    targets = RNG.normal(size=(2, 3)).astype(np.float32)
    targets[1, 0] = np.nan
    mask = np.array([[True, True, False], [True, True, True]])
    real = [(0, 0), (0, 1), (1, 1), (1, 2)]
    losses = [
        level * max(targets[n] - q, 0) + (1 - level) * max(q - targets[n], 0)
        for n in real
        for level, q in zip((0.2, 0.7), quantiles[n], strict=True)
    ]
    found = forecasting.quantile_loss(quantiles, targets, (0.2, 0.7), mask=mask)
    assert int(found.count) == 8
    np.testing.assert_allclose(found.value(), np.mean(losses), rtol=1e-5)
    low, high = targets - 1, targets + f32([[2, -0.5, 3], [0, 0, -2]])
    covered = forecasting.coverage(low, high, targets, mask=mask)
    assert (float(covered.total), int(covered.count)) == (2.0, 4)
    low[0, 0] = np.nan  # the forecast is not a number
    assert np.isnan(forecasting.coverage(low, high, targets, mask=mask).value())


def test_missing_values_never_reach_the_loss_or_its_gradient():
    targets = np.array([[1.0, np.nan, 2.0, 9.0], [np.nan, np.nan, 5.0, 5.0]], np.float32)
    lengths = np.array([3, 2])

    @functools.partial(jax.jit, static_argnums=0)
    def both(distribution, params):
        def total(params, **options):
            return forecasting.loss(distribution, params, targets, lengths=lengths, **options)

        return total(params), total(params, per_sequence=True), jax.grad(total)(params)

    for distribution in (*DENSE, Quantiles()):
        outputs = RNG.normal(size=(2, 4, distribution.size)).astype(np.float32)
        outputs[0, 1], outputs[0, 3], outputs[1] = np.nan, np.inf, -np.inf
        params = distribution.params(outputs)
        value, each, gradients = both(distribution, params)
        kept = jax.tree.map(lambda array: array[0, np.array([0, 2])], params)
        expected = distribution.losses(kept, f32([1.0, 2.0])).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(each, [expected, 0.0], rtol=1e-5)
        for gradient in map(np.asarray, jax.tree.leaves(gradients)):
            assert np.isfinite(gradient).all() and (gradient[0, [0, 2]] != 0).any()
            assert (gradient[1] == 0).all() and (gradient[0, [1, 3]] == 0).all()


def test_a_score_is_the_loss_with_a_count():
    params = {"mean": jnp.zeros((2, 2)), "deviation": jnp.ones((2, 2))}
    targets = jnp.array([[1.0, jnp.nan], [3.0, 0.0]])
    mean = forecasting.score(Gaussian(), params, targets, mask=jnp.ones((2, 2), bool))
    assert int(mean.count) == 3
    np.testing.assert_allclose(mean.value(), forecasting.loss(Gaussian(), params, targets))
    empty = forecasting.score(Gaussian(), jax.tree.map(lambda a: a[:0], params), targets[:0])
    assert (float(empty.value()), int(empty.count)) == (0.0, 0)


@pytest.mark.quick()
def test_impossible_targets():
    params = {"mean": jnp.ones((1, 2)), "dispersion": jnp.ones((1, 2))}
    for wrong in (1.5, -1.0, np.inf):
        targets = np.array([[2.0, wrong]])
        with pytest.raises(ValueError, match=r"targets: expected counts .*, got "):
            forecasting.loss(NegativeBinomial(), params, targets)
        traced = jax.jit(functools.partial(forecasting.loss, NegativeBinomial()))(params, targets)
        assert np.isnan(traced)
    forecasting.loss(NegativeBinomial(), params, np.array([[2, 3]]))  # integers
    forecasting.loss(NegativeBinomial(), params, np.array([[2.0, -1.0]]), lengths=[1])


P = {"mean": np.zeros((2, 3), np.float32), "deviation": np.ones((2, 3), np.float32)}
Y = np.zeros((2, 3), np.float32)
S = np.zeros((2, 3, 4), np.float32)
WRONG = {
    "distribution": (lambda: forecasting.loss("gaussian", P, Y), "distribution: expected"),
    "no distribution": (lambda: forecasting.loss(Gaussian, P, Y), "distribution: expected"),
    "params": (lambda: forecasting.loss(Gaussian(), P, Y[:, :2]), "params: expected arrays"),
    "bool": (lambda: forecasting.loss(Gaussian(), P, Y > 0), "targets: expected numbers"),
    "scalar": (lambda: forecasting.loss(Gaussian(), P, 1.0), "targets: expected a time axis"),
    "wide": (
        lambda: forecasting.loss(Gaussian(), P, Y.astype(float) + 1e39),
        "does not fit into float32",
    ),
    "both": (lambda: forecasting.loss(Gaussian(), P, Y, lengths=[1, 1], mask=Y > 0), "got both"),
    "lengths": (lambda: forecasting.loss(Gaussian(), P, Y, lengths=[1, 4]), "lengths: expected"),
    "masked": (lambda: forecasting.crps(S, np.ma.masked_equal(Y, 0)), "no masked entries"),
    "outputs": (lambda: Gaussian().params(S), r"outputs: expected \[..., 2\]"),
    "int outputs": (lambda: Gaussian().params(S[..., :2].astype(int)), "outputs: expected a float"),
    "loc": (lambda: NegativeBinomial().params(S[..., :2], loc=Y), "loc: expected 0"),
    "closed": (lambda: NegativeBinomial().crps({}, Y), "use seqjax.forecasting.crps of samples"),
    "levels": (lambda: Quantiles((0.5, 0.1)), "levels: expected increasing"),
    "level 1": (lambda: Quantiles((0.5, 1.0)), "levels: expected increasing"),
    "no levels": (lambda: Quantiles(()), "levels: expected increasing"),
    "level": (lambda: Quantiles(0.5), "levels: expected a sequence"),
    "one quantile": (
        lambda: forecasting.loss(Quantiles(), S[..., :1], Y),
        r"params: expected quantiles \[..., 3\], one for each level, got \(2, 3, 1\)",
    ),
    "mean of one": (lambda: Quantiles().mean(S[..., :1]), r"params: expected quantiles \[..., 3\]"),
    "other params": (
        lambda: forecasting.loss(StudentT(), P, Y),
        "params: expected the parameters of StudentT with the key 'df', got the keys 'mean', 'dev",
    ),
    "scale": (lambda: Gaussian().params(S[..., :2], scale=-1.0), "scale: expected positive .*-1.0"),
    "scale of counts": (
        lambda: NegativeBinomial().params(S[..., :2], scale=0.0),
        "scale: expected positive",
    ),
    "scale of quantiles": (
        lambda: Quantiles().params(S[..., :3], scale=np.array([[-2.0], [1.0]])),
        "scale: expected positive numbers, got -2.0",
    ),
    "samples": (lambda: forecasting.crps(S[:, :2], Y), r"samples: expected \[..., T, S\]"),
    "one sample": (lambda: forecasting.crps(S[..., :1], Y, fair=True), "at least 2 samples"),
    "no sample": (lambda: forecasting.crps(S[..., :0], Y), "at least 1 samples"),
    "int samples": (lambda: forecasting.crps(S.astype(int), Y), "samples: expected a float"),
    "few levels": (lambda: forecasting.quantile_loss(S, Y, (0.5,)), "levels: expected one for"),
    "low": (lambda: forecasting.coverage(S, Y, Y), "low: expected the shape of targets"),
    "hint": (lambda: forecasting.crps(S, Y, reduction="sum"), "mean over real positions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_scales():
    values = np.array(
        [[2.0, -4.0, np.nan, 6.0], [0.0, 0.0, 0.0, 0.0], [np.nan] * 4, [5e37, 5e37, -5e37, 5e37],
         [1e-30, 3e-30, 1e-30, 3e-30], [5.0, 5.0, 5.0, 5.0], [7.0, 1.0, 99.0, 99.0]], np.float32
    )  # fmt: skip
    lengths = np.array([4, 4, 4, 4, 4, 4, 2])
    loc, scale = jax.jit(forecasting.absolute_scale)(values, lengths=lengths)
    assert not loc.any()
    np.testing.assert_allclose(scale, [4.0, 1.0, 1.0, 5e37, 2e-30, 5.0, 4.0], rtol=1e-5)
    loc, scale = jax.jit(forecasting.standard_scale)(values, lengths=lengths)
    np.testing.assert_allclose(loc, [4 / 3, 0, 0, 2.5e37, 2e-30, 5, 4], rtol=1e-5)
    expected = [np.std([2, -4, 6]), 1, 1, 2.5e37 * np.sqrt(3), 1e-30, 5e-3, 3]
    np.testing.assert_allclose(scale, expected, rtol=1e-4)
    # Smaller series have the scale 1: their deviations would not be normal numbers.
    for scaled in (forecasting.absolute_scale, forecasting.standard_scale):
        assert scaled(f32([[1e-37, 2e-37], [1e-31, 0.0]])).scale.tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match="values: expected"):
        forecasting.absolute_scale(["a"])
    assert forecasting.absolute_scale(np.zeros((0, 3))).scale.shape == (0,)
    assert forecasting.standard_scale(np.zeros((2, 0))).scale.tolist() == [1.0, 1.0]
