"""Speech features against loops over the defining sums, in float64."""

import math
from typing import Any

import numpy as np
import pytest

from seqjax.data import deltas, log_mel, mfcc, stacked_frames


def mel(frequency):
    return 2595 * math.log10(1 + frequency / 700)


def reference(samples, rate, size, hop, fft_size, bands, low, high, a, floor):
    """Every sum as it is written in the docstring, by loops and a DFT matrix."""
    y = [x - (a * samples[n - 1] if n else 0.0) for n, x in enumerate(samples)]
    w = [(1 - math.cos(2 * math.pi * n / size)) / 2 for n in range(size)]
    centres = [mel(low) + b * (mel(high) - mel(low)) / (bands + 1) for b in range(bands + 2)]
    c = [700 * (10 ** (m / 2595) - 1) for m in centres]
    n, k = np.arange(size), np.arange(fft_size // 2 + 1)
    dft = np.exp(-2j * np.pi * np.outer(k, n) / fft_size)
    frames = []
    for start in range(0, len(y) - size + 1, hop):
        windowed = [w[i] * y[start + i] for i in range(size)]
        power = abs(dft @ windowed) ** 2 / sum(x * x for x in w)
        frame = []
        for b in range(1, bands + 1):
            energy = 0.0
            for index, p in enumerate(power):
                f = index * rate / fft_size
                up = (f - c[b - 1]) / (c[b] - c[b - 1])
                down = (c[b + 1] - f) / (c[b + 1] - c[b])
                energy += max(0.0, min(up, down)) * p
            frame.append(math.log(max(energy, floor)))
        frames.append(frame)
    return np.array(frames)


def speech(count, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(count)
    return 0.3 * np.sin(0.05 * t + 1e-5 * t**2) + 0.1 * rng.normal(size=count)


def test_log_mel_is_the_sums_that_it_names():
    samples = speech(900)
    defaults = reference(samples, 8000, 200, 80, 256, 40, 20.0, 4000.0, 0.97, 1e-10)
    found = log_mel(samples, 8000)
    assert found.dtype == np.float32 and found.shape == (9, 40)
    np.testing.assert_allclose(found, defaults, rtol=2e-6, atol=2e-6)
    options: Any = {"window": 0.032, "step": 0.013, "bands": 7, "low": 100, "high": 3000.0}
    other = reference(samples, 11025, 353, 143, 512, 7, 100, 3000.0, 0.0, 0.5)
    found = log_mel(samples, 11025, **options, pre_emphasis=0.0, floor=0.5)
    np.testing.assert_allclose(found, other, rtol=2e-6, atol=2e-6)
    assert (found == np.float32(math.log(0.5))).any()  # the floor was reached somewhere


def test_mfcc_is_the_orthonormal_cosine_transform():
    samples, bands = speech(600, seed=1), 24
    energies = reference(samples, 8000, 200, 80, 256, bands, 20.0, 4000.0, 0.97, 1e-10)
    expected = np.zeros((len(energies), 24))
    for j in range(24):
        scale = math.sqrt((1 if j == 0 else 2) / bands)
        for b in range(bands):
            expected[:, j] += scale * energies[:, b] * math.cos(math.pi * j * (b + 0.5) / bands)
    every = mfcc(samples, 8000, coefficients=24, bands=bands)
    assert every.dtype == np.float32
    np.testing.assert_allclose(every, expected, rtol=1e-5, atol=1e-5)
    few = mfcc(samples, 8000, bands=bands)
    np.testing.assert_array_equal(few, every[:, :13])
    lengths = [(x.astype(np.float64) ** 2).sum() for x in (every, log_mel(samples, 8000, bands=24))]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)  # orthonormal: lengths are kept


@pytest.mark.parametrize("width", [1, 2, 3])
def test_deltas_are_slopes(width):
    features = np.random.default_rng(2).normal(size=(6, 3))
    expected = np.zeros((6, 3))
    for t in range(6):
        for n in range(1, width + 1):
            expected[t] += n * (features[min(t + n, 5)] - features[max(t - n, 0)])
    expected /= 2 * sum(n * n for n in range(1, width + 1))
    found = deltas(features, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert not deltas(features[:1], width).any()
    assert deltas(features[:0], width).shape == (0, 3)


def test_number_of_frames():
    for count, frames in ((1, 1), (199, 1), (200, 1), (279, 1), (280, 2), (8000, 98)):
        assert log_mel(np.zeros(count), 8000).shape == (frames, 40)
    samples = speech(120)
    filled = np.append(samples, np.zeros(80))
    np.testing.assert_array_equal(log_mel(samples, 8000), log_mel(filled, 8000))


def test_silence_is_finite_and_the_scale_of_energy_is_that_of_white_noise():
    np.testing.assert_array_equal(log_mel(np.zeros(8000), 8000), np.float32(math.log(1e-10)))
    assert np.isfinite(mfcc(np.zeros(8000, np.float32), 8000)).all()
    noise = np.random.default_rng(3).normal(size=80_000)
    options: Any = {"bands": 2, "low": 0.0, "pre_emphasis": 0.0}
    found = np.exp(log_mel(noise, 8000, **options).astype(np.float64)).mean(axis=0)
    c = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(0, mel(4000), 4)]
    areas = [(c[b + 2] - c[b]) / 2 / (8000 / 256) for b in range(2)]  # of the triangles
    np.testing.assert_allclose(found, areas, rtol=0.05)


def test_louder_recordings_only_shift_the_logarithm():
    samples = speech(2000)
    shift = log_mel(2 * samples, 8000) - log_mel(samples, 8000)
    np.testing.assert_allclose(shift, math.log(4), rtol=1e-4)
    change = mfcc(2 * samples, 8000) - mfcc(samples, 8000)
    np.testing.assert_allclose(change[:, 1:], 0, atol=1e-4)
    float32 = log_mel(samples.astype(np.float32), 8000)
    np.testing.assert_allclose(float32, log_mel(samples, 8000), atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "rate", "options", "message"),
    [
        ([], 8000, {}, "samples: expected float .* at least one, got"),
        (np.zeros((9, 2)), 8000, {}, r"samples: .* got shape \(9, 2\)"),
        ([0.0, np.nan], 8000, {}, "samples: expected finite numbers"),
        (np.zeros(9), 0, {}, "rate: expected a positive number, got 0"),
        (np.zeros(9), 8000, {"window": -1.0}, "window: expected a positive number, got -1"),
        (np.zeros(9), 8000, {"step": 1e-5}, "step: expected at least one sample at rate 8000"),
        (np.zeros(9), 8000, {"bands": 0}, "bands: expected a positive integer, got 0"),
        (np.zeros(9), 8000, {"bands": 100}, "bands: expected each band to contain a"),
        (np.zeros(9), 8000, {"high": 5000}, "low, high: .* rate / 2 = 4000, got 20, 5000"),
        (np.zeros(9), 8000, {"low": 900, "high": 90}, "low, high: .* got 900, 90"),
        (np.zeros(9), 8000, {"pre_emphasis": 1.0}, r"pre_emphasis: .* in \[0, 1\), got 1.0"),
        (np.zeros(9), 8000, {"floor": 0.0}, "floor: expected a positive number, got 0.0"),
    ],
)
def test_mistakes(samples, rate, options, message):
    with pytest.raises(ValueError, match=message):
        log_mel(np.asarray(samples, np.float64), rate, **options)


def test_more_mistakes():
    with pytest.raises(TypeError, match=r"samples: expected float .*, got int16"):
        log_mel(np.zeros(9, np.int16), 8000)
    with pytest.raises(TypeError, match="rate: expected a number, got"):
        log_mel(np.zeros(9), "8000")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="coefficients: expected at most bands=10, got 13"):
        mfcc(np.zeros(9), 8000, bands=10)
    with pytest.raises(TypeError, match=r"features: expected float .*, got int64"):
        deltas(np.zeros((3, 2), np.int64))
    with pytest.raises(ValueError, match=r"features: .* got shape \(3,\)"):
        deltas(np.zeros(3))
    with pytest.raises(ValueError, match="width: expected a positive integer, got 0"):
        deltas(np.zeros((3, 2)), width=0)
    with pytest.raises(ValueError, match="features: expected finite numbers, got NaN or infinity"):
        deltas(np.array([[0.0], [np.nan]]))


def test_stacked_frames_have_the_changes_and_the_speed():
    frames = np.arange(20.0).reshape(10, 2) ** 2
    found = stacked_frames(frames, 4)
    assert found.shape == (3, 4 * 6) and found.dtype == np.float32 and not found[2, 12:].any()
    rows = found.reshape(12, 6)[:10]
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-2)
    change = deltas(frames)
    for columns, values in ((rows[:, 2:4], change), (rows[:, 4:], deltas(change))):
        expected = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-3)
        np.testing.assert_allclose(columns, expected, atol=1e-4)
    assert len(stacked_frames(frames, 1, speed=0.5)) == 20
    faster = stacked_frames(frames, 1, speed=2.0)
    np.testing.assert_allclose(faster, stacked_frames(frames[::2], 1), atol=1e-6)
    assert np.isfinite(stacked_frames(frames[:1], 3)).all()


@pytest.mark.parametrize(
    ("frames", "stack", "speed", "error", "message"),
    [
        (np.zeros(3), 1, 1.0, ValueError, r"frames: expected \[T, F\] .* got shape \(3,\)"),
        (np.zeros((0, 3)), 1, 1.0, ValueError, "frames: expected"),
        (np.zeros((4, 0)), 1, 1.0, ValueError, r"frames: .* F > 0, got shape \(4, 0\)"),
        (np.full((4, 3), np.nan), 1, 1.0, ValueError, "frames: expected finite numbers"),
        (np.full((4, 3), "a"), 1, 1.0, TypeError, r"frames: expected float \[T, F\], got <U1"),
        (np.zeros((4, 3)), 0, 1.0, ValueError, "stack: expected"),
        (np.zeros((4, 3)), 1.5, 1.0, TypeError, "stack: expected"),
        (np.zeros((4, 3)), 1, 0.0, ValueError, "speed: expected"),
    ],
)
def test_stacked_frames_refuse(frames, stack, speed, error, message):
    with pytest.raises(error, match=message):
        stacked_frames(frames, stack, speed=speed)


@pytest.mark.parametrize(
    ("function", "shape"), [(lambda x: log_mel(x, 100), 400), (deltas, (5, 2)),
                            (lambda x: stacked_frames(x, 2), (5, 2))],
)  # fmt: skip
def test_masked_arrays_are_refused(function, shape):
    values = np.random.default_rng(0).normal(size=shape)
    with pytest.raises(ValueError, match="expected no masked entries"):
        function(np.ma.array(values, mask=values > 0))
