"""Speech features: frames of log-mel energies or cepstral coefficients."""

import math
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike

from seqjax import checks

__all__ = ["deltas", "log_mel", "mfcc", "stacked_frames"]


def log_mel(
    samples: ArrayLike,
    rate: float,
    *,
    window: float = 0.025,
    step: float = 0.010,
    bands: int = 40,
    low: float = 20.0,
    high: float | None = None,
    pre_emphasis: float = 0.97,
    floor: float = 1e-10,
) -> np.ndarray:
    """Return the logarithm of a recording's energy in bands of equal width on the mel scale.

    A window has N = window · rate samples and a step M = step · rate samples, both rounded. K is
    the smallest power of two with K ≥ N. The equations of frame t of the samples x are

        y_n     = x_n - a x_{n-1},   y_0 = x_0                    a = pre_emphasis
        w_n     = (1 - cos(2π n / N)) / 2                         Hann's window, n = 0 … N - 1
        P_t(k)  = |Σ_n w_n y_{tM+n} exp(-2πi kn / K)|² / Σ_n w_n²         k = 0 … K / 2
        E_t(b)  = Σ_k max(0, min((f_k - c_{b-1}) / (c_b - c_{b-1}),
                                 (c_{b+1} - f_k) / (c_{b+1} - c_b))) P_t(k)
        frame_t(b) = log max(E_t(b), floor)

    with f_k = k rate / K. The band edges c_0 … c_{bands+1} are equally spaced from `low` to `high`
    on the mel scale, mel(f) = 2595 log10(1 + f / 700). Only complete windows produce a frame:
    there are 1 + ⌊(samples - N) / M⌋ frames, and the remaining samples at the end are not used. A
    recording shorter than a window is padded with zeros and produces one frame. Silence gives
    log(floor) in all bands.

    Args:
      samples: float [samples], at least one, usually in [-1, 1].
      rate: the sampling rate, in samples per second.
      window: the length of a frame, in seconds.
      step: the time between the starts of two frames, in seconds.
      bands: the number of bands.
      low: the lower edge of the first band, in Hz.
      high: the upper edge of the last band, in Hz, at most rate / 2. None means rate / 2.
      pre_emphasis: the coefficient a, in [0, 1). A coefficient above 0 amplifies high frequencies.
      floor: the lower bound of the energy E_t(b). For comparison, the power P_t(k) of white noise
        of variance 1 is about 1.

    Returns:
      float32 [frames, bands], computed in float64.

    Raises:
      TypeError: `samples` are not float, or another argument is not a number.
      ValueError: `samples` has no elements, has several axes or contains NaN or infinity; an
        argument is out of range; or there are so many bands that one of them contains no frequency
        f_k.

    References:
      Davis, Mermelstein (1980), Comparison of parametric representations for monosyllabic word
      recognition in continuously spoken sentences. O'Shaughnessy (1987), Speech communication
      (mel scale). Young et al. (2006), The HTK Book, section 5.4.

    Example:
      >>> tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)  # a second of 1000 Hz
      >>> frames = log_mel(tone, 8000, bands=20)
      >>> frames.shape, set(frames.argmax(axis=1).tolist())
      ((98, 20), {9})
    """
    samples = _samples(samples)
    rate, floor = checks.require_positive("rate", rate), checks.require_positive("floor", floor)
    size = _number_of_samples("window", window, rate)
    hop = _number_of_samples("step", step, rate)
    pre_emphasis = checks.require_rate("pre_emphasis", pre_emphasis)
    fft_size = 1 << (size - 1).bit_length()
    filters = _mel_filters(rate, fft_size, bands, low, high)

    samples = np.pad(samples, (0, max(0, size - len(samples))))
    emphasised = np.append(samples[:1], samples[1:] - pre_emphasis * samples[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, size)[::hop]
    hann = (1 - np.cos(2 * np.pi * np.arange(size) / size)) / 2
    spectrum = scipy.fft.rfft(frames * hann, n=fft_size)
    power = (spectrum.real**2 + spectrum.imag**2) / (hann**2).sum()
    energies: np.ndarray = np.log(np.maximum(power @ filters, floor))
    return energies.astype(np.float32)


def mfcc(samples: ArrayLike, rate: float, *, coefficients: int = 13, **options: Any) -> np.ndarray:
    """Return mel-frequency cepstral coefficients, the first terms of the DCT-II of `log_mel`.

        frame_t(j) = s_j Σ_b log_mel_t(b) cos(π j (b + 1/2) / bands),   s_0 = √(1 / bands),
                                                                        s_j = √(2 / bands)

    Args:
      samples: float [samples], as in `log_mel`.
      rate: the sampling rate, in samples per second.
      coefficients: the number of coefficients, starting with j = 0 (the loudness); at most `bands`.
      **options: options of `log_mel`, such as `bands` and `step`.

    Returns:
      float32 [frames, coefficients].

    Raises:
      TypeError: as in `log_mel`, or `coefficients` is not an integer.
      ValueError: as in `log_mel`, or `coefficients` is below 1 or above `bands`.

    References:
      Davis, Mermelstein (1980), see `log_mel`.

    Example:
      >>> print(mfcc(np.zeros(400), 16000, coefficients=3).round(2))  # silence: √40 log(1e-10)
      [[-145.63    0.      0.  ]]
    """
    checks.require_options("mfcc", options, log_mel)
    energies = log_mel(samples, rate, **options)
    coefficients = checks.require_integer("coefficients", coefficients)
    if coefficients > energies.shape[1]:
        raise ValueError(
            f"coefficients: expected at most bands={energies.shape[1]}, got {coefficients}"
        )
    cepstrum: np.ndarray = scipy.fft.dct(energies.astype(np.float64), norm="ortho")
    return cepstrum[:, :coefficients].astype(np.float32)


def deltas(features: ArrayLike, width: int = 2) -> np.ndarray:
    """Return the deltas of features: the slope of a line fitted to each frame and its neighbours.

        d_t = Σ_n n (c_{t+n} - c_{t-n}) / (2 Σ_n n²),   n = 1 … width

    The first frame is repeated before the sequence, and the last frame is repeated after it. To get
    second-order deltas, call the function on the deltas.

    Args:
      features: float [frames, F].
      width: the number of neighbours on each side.

    Returns:
      float32 [frames, F].

    Raises:
      TypeError: `features` are not float, or `width` is not an integer.
      ValueError: `features` does not have shape [frames, F] or contains NaN or infinity, or `width`
        is below 1.

    References:
      Furui (1986), Speaker-independent isolated word recognition using dynamic features of speech
      spectrum. Young et al. (2006), The HTK Book, eq. 5.16.

    Example:
      >>> print(deltas(np.array([[0.0], [1.0], [2.0], [3.0], [4.0]]))[:, 0])
      [0.5 0.8 1.  0.8 0.5]
    """
    checks.require_unmasked("features", features)
    array = np.asarray(features)
    if array.dtype.kind != "f":
        raise TypeError(f"features: expected float [frames, F], got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"features: expected float [frames, F], got shape {array.shape}")
    _require_finite("features", array)
    width = checks.require_integer("width", width)
    if not len(array):
        return array.astype(np.float32)
    steps = len(array)
    padded = np.pad(array.astype(np.float64), ((width, width), (0, 0)), mode="edge")
    slopes = np.zeros(array.shape)
    for n in range(1, width + 1):
        later, earlier = padded[width + n :][:steps], padded[width - n :][:steps]
        slopes += n * (later - earlier)
    return (slopes / (2 * sum(n * n for n in range(1, width + 1)))).astype(np.float32)


def stacked_frames(frames: ArrayLike, stack: int, *, speed: float = 1.0) -> np.ndarray:
    """Return normalised frames with their deltas, several frames stacked into one time step.

    Each frame consists of its F features, their deltas and the deltas of the deltas. Each of these
    3 F values is normalised over the utterance to mean 0 and standard deviation 1. If the last time
    step has fewer than `stack` frames, it is padded with zeros.

    Args:
      frames: float [T, F], such as from `mfcc`.
      stack: the number of frames in a time step.
      speed: the factor by which linear interpolation speeds up the utterance. A factor above 1
        makes the utterance shorter.

    Returns:
      float32 [⌈⌈T / speed⌉ / stack⌉, 3 F stack].

    Raises:
      TypeError: `frames` are not numbers, `stack` is not an integer, or `speed` is not a number.
      ValueError: `frames` does not have shape [T, F] with T > 0 and F > 0 or contains NaN or
        infinity, or `stack` or `speed` is not positive.

    References:
      Sak, Senior, Rao, Beaufays (2015), Fast and accurate recurrent neural network acoustic models
      for speech recognition, section 5 (stacking). Ko, Peddinti, Povey, Khudanpur (2015), Audio
      augmentation for speech recognition (speed).

    Example:
      >>> frames = np.random.default_rng(0).normal(size=(100, 13))
      >>> stacked_frames(frames, 3).shape, stacked_frames(frames, 3, speed=1.25).shape
      ((34, 117), (27, 117))
    """
    checks.require_unmasked("frames", frames)
    frames = np.asarray(frames)
    if frames.dtype.kind not in "iuf":
        raise TypeError(f"frames: expected float [T, F], got {frames.dtype}")
    if frames.ndim != 2 or not frames.size:
        raise ValueError(f"frames: expected [T, F] with T > 0 and F > 0, got shape {frames.shape}")
    _require_finite("frames", frames)
    stack, speed = checks.require_integer("stack", stack), checks.require_positive("speed", speed)
    times = np.arange(0, len(frames), speed)
    played = np.stack([np.interp(times, np.arange(len(frames)), x) for x in frames.T], axis=1)
    change = deltas(played)
    joined = np.concatenate([played, change, deltas(change)], axis=1)
    joined = (joined - joined.mean(axis=0)) / (joined.std(axis=0) + 1e-3)
    joined = np.pad(joined, ((0, -len(joined) % stack), (0, 0)))
    return joined.reshape(-1, stack * joined.shape[1]).astype(np.float32)


def _mel_filters(
    rate: float, fft_size: int, bands: int, low: float, high: float | None
) -> np.ndarray:
    """Return the triangular filters over FFT frequencies, float64 [fft_size / 2 + 1, bands]."""
    bands = checks.require_integer("bands", bands)
    low = checks.require_number("low", low)
    high = rate / 2 if high is None else checks.require_number("high", high)
    if not 0 <= low < high <= rate / 2:
        raise ValueError(
            f"low, high: expected 0 <= low < high <= rate / 2 = {rate / 2:g}, got {low:g}, {high:g}"
        )
    first, last = (2595 * math.log10(1 + limit / 700) for limit in (low, high))
    mels = np.linspace(first, last, bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.arange(fft_size // 2 + 1)[:, None] * rate / fft_size
    below, centre, above = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies - below) / (centre - below)
    falling = (above - frequencies) / (above - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    empty = ~filters.any(axis=0)
    if empty.any():
        b = int(empty.argmax())
        raise ValueError(
            f"bands: expected each band to contain a multiple of {rate / fft_size:g} Hz, got "
            f"{bands} bands, of which band {b} ({below[b]:.0f} to {above[b]:.0f} Hz) contains "
            "none; use fewer bands or a longer window"
        )
    return filters


def _samples(samples: ArrayLike) -> np.ndarray:
    checks.require_unmasked("samples", samples)
    array = np.asarray(samples)
    if array.dtype.kind != "f":
        raise TypeError(f"samples: expected float [samples], got {array.dtype}")
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"samples: expected float [samples], at least one, got shape {array.shape}"
        )
    _require_finite("samples", array)
    return array.astype(np.float64)


def _require_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def _number_of_samples(name: str, seconds: Any, rate: float) -> int:
    found = round(checks.require_positive(name, seconds) * rate)
    if found < 1:
        raise ValueError(f"{name}: expected at least one sample at rate {rate:g}, got {seconds} s")
    return found
