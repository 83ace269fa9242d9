"""Sound: all samples of a file come out, with their values, or an error says why not."""

import gzip
import io
import struct
import sys
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("soundfile")
import soundfile

from seqjax.data import read_audio

SAMPLES = (np.arange(1, 401) * 37 % 30000 + 1).astype("<i2")  # none of them 0
BYTES = SAMPLES.tobytes()
VALUES = SAMPLES.astype(np.float64) / 2**15
GUID = bytes.fromhex("000000001000800000aa00389b71")  # ends the subformat of an extensible header


def riff(
    data=BYTES,
    *,
    size=None,
    data_size=None,
    kind=1,
    channels=1,
    bits=16,
    align=None,
    rate=8000,
    bytes_a_second=None,
    extra=b"",
    before=b"",
    after=b"",
    order="<",
):
    """A WAV file whose header says what is asked for, true or not."""
    frame = channels * -(-bits // 8)
    align = frame if align is None else align
    bytes_a_second = rate * frame if bytes_a_second is None else bytes_a_second
    form = struct.pack(f"{order}HHIIHH", kind, channels, rate, bytes_a_second, align, bits) + extra
    data_size = len(data) if data_size is None else data_size
    body = b"WAVE" + chunk(b"fmt ", form, order) + before
    body += b"data" + struct.pack(f"{order}I", data_size) + data + after
    name = b"RIFF" if order == "<" else b"RIFX"
    return name + struct.pack(f"{order}I", len(body) if size is None else size) + body


def chunk(name, content, order="<"):
    return name + struct.pack(f"{order}I", len(content)) + content + bytes(len(content) % 2)


def read(tmp_path, data, name="sound.wav"):
    path = tmp_path / name
    path.write_bytes(data)
    found, rate = read_audio(path)
    assert found.dtype == np.float32 and found.ndim == 1 and type(rate) is int
    return found, rate


def encoded(values, rate=8000, **options):
    file = io.BytesIO()
    soundfile.write(file, values, rate, **options)
    return file.getvalue()


# ---- values


@pytest.mark.parametrize(
    ("samples", "kind", "expected"),
    [
        (np.array([0, 128, 255], "u1"), 1, [-1, 0, 127 / 128]),
        (np.array([-32768, 0, 16384], "<i2"), 1, [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30, 1], "<i4"), 1, [-1, 0, 0.5, 2**-31]),
        (np.array([-1, 0, 0.25, 1.5], "<f4"), 3, [-1, 0, 0.25, 1.5]),
        (np.array([-1, 0, 0.25, 1e-40], "<f8"), 3, [-1, 0, 0.25, 1e-40]),
        (np.array([[-32768, 0], [16384, 0]], "<i2"), 1, [-0.5, 0.25]),
        (np.array([[1, 2, 4, 8]], "<i4"), 1, [15 / 4 * 2**-31]),
        (np.array([[1.0, 0.5]], "<f4"), 3, [0.75]),
    ],
)
def test_values(tmp_path, samples, kind, expected):
    channels = samples.shape[1] if samples.ndim == 2 else 1
    bits = 8 * samples.dtype.itemsize
    data = riff(samples.tobytes(), kind=kind, channels=channels, bits=bits)
    found, rate = read(tmp_path, data)
    assert rate == 8000
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    packed, _ = read(tmp_path, gzip.compress(data), "sound.wav.GZ")
    np.testing.assert_array_equal(packed, found)


def test_24_bits(tmp_path):
    samples = b"".join(n.to_bytes(3, "little", signed=True) for n in (-(2**23), 2**22, 0, 1, 5))
    found, _ = read(tmp_path, riff(samples, bits=24, after=b"\0"))
    np.testing.assert_array_equal(found, [-1, 0.5, 0, 2**-23, 5 * 2**-23])


def mu_law(code):
    """G.711: the 14-bit value of a byte, as a share of 2**13."""
    code = ~code & 0xFF
    value = ((((code & 15) << 1) + 33) << (code >> 4 & 7)) - 33
    return (-value if code & 0x80 else value) / 2**13


def a_law(code):
    """G.711: the 13-bit value of a byte, as a share of 2**12."""
    code ^= 0x55
    exponent, value = code >> 4 & 7, (code & 15) << 1 | 1
    value = value if exponent == 0 else (value | 32) << (exponent - 1)
    return (value if code & 0x80 else -value) / 2**12


@pytest.mark.parametrize(("kind", "decode"), [(7, mu_law), (6, a_law)])
def test_telephone_speech(tmp_path, kind, decode):
    codes = bytes(range(256))
    expected = np.array([decode(code) for code in codes], np.float32)
    found, _ = read(tmp_path, riff(codes, kind=kind, bits=8, extra=b"\0\0"))
    np.testing.assert_array_equal(found, expected)
    if kind == 7:
        header = (
            "NIST_1A\n   1024\nchannel_count -i 1\nsample_count -i {}\nsample_rate -i 8000\n"
            "sample_n_bytes -i 1\nsample_sig_bits -i 8\nsample_coding -s4 ulaw\nend_head\n"
        )
        sphere = header.format(256).ljust(1024).encode() + codes
        found, rate = read(tmp_path, sphere, "sound.sph")
        assert rate == 8000
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(ValueError, match=r"expected 256 samples .*sound\.sph, .* got 250"):
            read(tmp_path, sphere[:-6], "sound.sph")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("form", "error"), [("FLAC", 1e-4), ("AIFF", 1e-4), ("AU", 1e-4), ("RF64", 1e-4),
                        ("NIST", 1e-4), ("WAVEX", 1e-4), ("OGG", 0.1), ("MP3", 0.1)],
)  # fmt: skip
def test_other_formats_and_what_is_cut(tmp_path, form, error, channels):
    if form not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {form}")
    wave = 0.5 * np.sin(0.1 * np.arange(20000))
    values = np.stack([wave, wave / 2], 1) if channels == 2 else wave
    whole = encoded(values, 16000, format=form)
    found, rate = read(tmp_path, whole)
    assert rate == 16000 and found.shape == wave.shape
    np.testing.assert_allclose(found, values.reshape(20000, -1).mean(1), atol=error)
    for end in (-1, -2, -7, len(whole) // 2, len(whole) // 3, 100):
        with pytest.raises(ValueError, match=r"path: expected .* in .*sound\.wav, .*got"):
            read(tmp_path, whole[:end])


def test_ogg_that_ends_between_pages_or_inside_one(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 60000)
    whole = encoded(noise, format="OGG", subtype="VORBIS")
    assert len(read(tmp_path, whole)[0]) == 60000 and whole.count(b"OggS") > 4
    for end in (whole.rindex(b"OggS"), -1):
        with pytest.raises(ValueError, match="no page that ends the stream; the file was cut"):
            read(tmp_path, whole[:end])


def test_compressed_aiff(tmp_path):
    whole = encoded(VALUES, format="AIFF", subtype="ULAW")
    np.testing.assert_allclose(read(tmp_path, whole)[0], VALUES, rtol=0.05, atol=1e-3)
    with pytest.raises(ValueError, match=r"\d+ bytes of SSND, but the header declares \d+"):
        read(tmp_path, whole[:-2])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_mp3_without_a_frame_that_says_how_long_it_is(tmp_path, rate, channels):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    noise = np.random.default_rng(0).normal(0, 0.1, 20000)
    values = np.concatenate([0.1 * np.sin(0.1 * np.arange(20000)), noise])
    values = np.stack([values] * channels, 1)
    for mode in ("CONSTANT", "VARIABLE"):
        whole = encoded(values, rate, format="MP3", bitrate_mode=mode, compression_level=0.7)
        start = whole.index(whole[:2], 4)
        sound, tags = whole[start:], b"ID3\x03\0\0\0\0\x0a\x0a" + bytes(1290)
        for data in (sound, tags + sound + b"TAG" + bytes(125)):
            if mode == "CONSTANT":
                found, _ = read(tmp_path, data)
                assert 40000 < len(found) < 40000 + 3 * 1152
            else:  # libsndfile takes all frames to be as large as the first
                with pytest.raises(ValueError, match=r"expected 4\d{4} samples .*, got \d{4}"):
                    read(tmp_path, data)
        with pytest.raises(ValueError, match="an incomplete last frame"):
            read(tmp_path, sound[:-5])


def test_what_wave_of_python_writes(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 11025, 0, "NONE", ""))
        file.writeframes(SAMPLES.tobytes())
    found, rate = read_audio(str(tmp_path / "sound.wav"))
    assert rate == 11025
    np.testing.assert_array_equal(found, VALUES)


# ---- headers that are unusual, but clear

UNUSUAL = {
    "from a pipe": riff(size=0xFFFFFFFF, data_size=0xFFFFFFFF),
    "from a pipe, by sox": riff(size=0x7FFFF024, data_size=0x7FFFF000),
    "from a pipe, half the range": riff(size=0x80000024, data_size=0x80000000),
    "from a pipe, less the header": riff(size=0xFFFFFFFF, data_size=0xFFFFFFDB),
    "RIFF of no size": riff(size=0),
    "frames of 4 bytes": riff(align=4),
    "frames of no size": riff(align=0, bytes_a_second=0),
    "bytes a second": riff(bytes_a_second=1),
    "NULs": riff(after=bytes(100)),
    "NULs behind the end": riff() + bytes(100),
    "seven NULs": riff() + bytes(7),
    "a list before": riff(before=chunk(b"LIST", b"INFOISFT\5\0\0\0Lavf\0")),
    "an odd chunk before": riff(before=chunk(b"what", b"abc")),
    "chunks after": riff(after=chunk(b"LIST", b"INFOa") + chunk(b"id3 ", b"abc")),
    "a tag after": riff() + b"TAG" + b"x" * 125,
    "18 bytes of form": riff(extra=b"\0\0"),
    "extensible": riff(kind=0xFFFE, extra=struct.pack("<HHIH", 22, 16, 4, 1) + GUID),
    "the highest byte first": riff(SAMPLES.astype(">i2").tobytes(), order=">"),
    "12 bits in two bytes": riff(bits=12),
    "half a sample more": riff(BYTES + b"\1", after=b"\0"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_headers(tmp_path, name, capfd):
    found, rate = read(tmp_path, UNUSUAL[name])
    assert rate == 8000
    np.testing.assert_array_equal(found, VALUES)
    assert capfd.readouterr() == ("", "")


def test_an_odd_number_of_bytes_without_padding(tmp_path):
    data = bytes(range(1, 10))
    after = chunk(b"LIST", b"INFO")
    for padding in (b"", b"\0"):
        found, _ = read(tmp_path, riff(data, bits=8, after=padding + after))
        np.testing.assert_array_equal(found, (np.arange(1, 10) - 128) / 128)


# ---- headers that are wrong

WRONG = {
    "cut": (riff()[:-100], "700 bytes of samples, but the header declares 800; the file was cut"),
    "cut inside a sample": (riff()[:-101], "699 bytes of samples"),
    "cut in the header": (riff()[:30], "got"),
    "cut, of 24 bits": (riff(bytes(2400), bits=24)[:-1], "2399 bytes of samples"),
    "a size too small": (riff(data_size=400), "400 bytes after the samples"),
    "no size": (riff(size=0, data_size=0), "800 bytes after the samples"),
    "samples in two chunks": (riff(after=chunk(b"data", b"ab")), "10 bytes after the samples"),
    "24 bits in frames of 4 bytes": (riff(bits=24, align=4, bytes_a_second=32000), "contradicts"),
    "two channels in one": (riff(channels=2, align=2, bytes_a_second=16000), "contradicts"),
    "8 bits in two bytes": (riff(bits=8, align=2, bytes_a_second=16000), "contradicts"),
    "no channels": (riff(channels=0), "contradicts"),
    "samples before the form": (
        b"RIFF\xff\0\0\0WAVE" + chunk(b"data", b"ab") + chunk(b"fmt ", bytes(16)),
        "no chunk 'fmt '",
    ),
    "two forms": (riff(before=chunk(b"fmt ", bytes(16))), "two chunks 'fmt '"),
    "a list too long": (
        riff(before=b"LIST\xff\xff\0\0INFO"),
        "a chunk b'LIST' that declares 65535 bytes",
    ),
    "no samples": (riff(b""), "path: expected samples in .*, got none"),
    "not a number": (riff(struct.pack("<3f", 0, 1, np.nan), kind=3, bits=32), "got nan at index 2"),
    "too large": (riff(struct.pack("<2d", 0, -1e300), kind=3, bits=64), "got -inf at index 1"),
    "text": (b"no sound at all, no sound", "Format not recognised"),
    "empty": (b"", "Format not recognised"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_headers(tmp_path, name):
    data, message = WRONG[name]
    with pytest.raises(ValueError, match=r"path: expected .* in .*sound\.wav, got") as caught:
        read(tmp_path, data)
    assert caught.match(message)


def test_flac_that_does_not_say_how_long_it_is(tmp_path):
    whole = bytearray(encoded(VALUES, format="FLAC"))
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    with pytest.raises(ValueError, match="a header without the number of samples"):
        read(tmp_path, whole)
    whole[21] |= 0x0F
    whole[22:26] = b"\xff" * 4
    with pytest.raises(ValueError, match="got"):
        read(tmp_path, whole)


def test_files_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="path: expected a file, got the folder"):
        read_audio(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(TypeError, match="path: expected a path, got 3"):
        read_audio(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a sound file in .*, got the format CAF"):
        read(tmp_path, encoded(VALUES, format="CAF"))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r'pip install "seqjax\[audio\]"'):
        read_audio(tmp_path / "none.wav")


# ---- any content


def chunks(*names):
    """The bytes of some chunks of such names."""
    parts = st.builds(chunk, st.sampled_from(names), st.binary(max_size=9))
    return st.lists(parts, max_size=3).map(b"".join)


@given(
    st.integers(1, 2),
    st.sampled_from([8, 16, 24, 32]),
    chunks(b"LIST", b"junk", b"bext"),
    chunks(b"LIST", b"id3 "),
    st.binary(min_size=1, max_size=40),
)
def test_what_is_written_is_read(tmp_path_factory, channels, bits, before, after, data):
    size = bits // 8
    data = (data * 8)[: len(data) // (size * channels) * size * channels + size * channels]
    file = riff(
        data, channels=channels, bits=bits, before=before, after=bytes(len(data) % 2) + after
    )
    found, _ = read(tmp_path_factory.getbasetemp(), file, "sound.raw")
    parts = [data[n : n + size] for n in range(0, len(data), size)]
    whole = [int.from_bytes(part, "little", signed=bits > 8) for part in parts]
    values = (np.array(whole, np.float64) - 128 * (bits == 8)) / 2 ** (bits - 1)
    np.testing.assert_array_equal(found, values.reshape(-1, channels).mean(1).astype(np.float32))


PLACES = {4: 4, 16: 4, 20: 2, 22: 2, 28: 4, 32: 2, 34: 2, 36: 4, 40: 4}  # offset: bytes


@given(
    st.sampled_from(sorted(PLACES)),
    st.sampled_from([0, 1, 2, 3, 4, 6, 8, 24, 32, 400, 799, 801, 0xFFFE, 0xFFFFFFFF])
    | st.integers(0, 2**32 - 1),
)
def test_no_wrong_number_in_a_header_loses_samples(tmp_path_factory, place, number):
    file = bytearray(riff())
    width = PLACES[place]
    file[place : place + width] = (number % 256**width).to_bytes(width, "little")
    try:
        found, _ = read(tmp_path_factory.getbasetemp(), bytes(file))
    except ValueError:
        return
    if place == 20 and number % 65536 != 1:  # another kind of samples, as many bytes
        assert len(found) >= 400
    else:
        np.testing.assert_array_equal(found, VALUES)


@given(st.binary(max_size=80), st.integers(0, 44), st.sampled_from(["WAV", "FLAC", "AIFF", "AU"]))
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_any_bytes(tmp_path_factory, data, place, form):
    whole = encoded(VALUES, format=form)
    for start in (
        b"",
        b"RIFF\xff\0\0\0WAVE",
        b"FORM\0\0\0\xffAIFF",
        b"OggS",
        b".snd",
        b"NIST_1A\n",
    ):
        for file in (start + data, whole[:place] + data):
            try:
                found, _ = read(tmp_path_factory.getbasetemp(), file)
            except ValueError:
                continue
            assert len(found)


# ---- joined files, and what follows the samples

FORMS = ["WAV", "WAVEX", "RF64", "AIFF", "AU", "NIST", "FLAC", "OGG", "MP3"]
ID3 = b"ID3\x03\0\0\0\0\x01\x0a" + bytes(138)


@pytest.fixture(scope="module", params=FORMS)
def whole(request):
    if request.param not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {request.param}")
    return encoded(0.5 * np.sin(0.1 * np.arange(20000)), 16000, format=request.param)


def test_joined_files_are_an_error(tmp_path, whole):
    assert len(read(tmp_path, whole)[0]) == 20000
    for between in (b"", b"TAG" + bytes(125), ID3):
        with pytest.raises(ValueError, match=r"path: expected .* in .*sound\.wav, .*got"):
            read(tmp_path, whole + between + whole)


def test_joined_files_with_tags_between_them(tmp_path):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    whole = encoded(0.5 * np.sin(0.1 * np.arange(20000)), 16000, format="MP3")
    second, ape = b"TAG" + bytes(125), b"APETAGEX" + bytes([0, 0, 0, 0, 9]) + bytes(28)
    for tags in (second, ape, ape + second):
        assert len(read(tmp_path, ID3 + whole + tags)[0]) == 20000
        for begin in (b"", ID3):
            with pytest.raises(ValueError, match="bytes that are not MP3 frames, from "):
                read(tmp_path, whole + tags + begin + whole)
    with pytest.raises(ValueError, match="bytes that are not MP3 frames, from "):
        read(tmp_path, ID3 + whole + ID3 + whole)
    without = whole[whole.index(whole[:2], 4) :]  # without the frame that says how many
    with pytest.raises(ValueError, match="the file was cut, or files were joined"):
        read(tmp_path, whole + without)
    with pytest.raises(ValueError, match="bytes that are not MP3 frames, from "):
        read(tmp_path, ID3 + without + ID3 + without)
    flac = encoded(VALUES, format="FLAC")
    np.testing.assert_array_equal(read(tmp_path, ID3 + flac)[0], VALUES)
    with pytest.raises(ValueError, match="several FLAC files, one after another"):
        read(tmp_path, ID3 + flac + ID3 + flac)


def test_bytes_after_the_samples_are_an_error(tmp_path, whole):
    for after in (bytes(range(7, 87)), b"\1\2" * 1000, b"\1"):
        if whole[:4] == b"fLaC":  # a limit that read_audio states
            assert len(read(tmp_path, whole + after)[0]) == 20000
        elif after != b"\1" or whole[:7] != b"NIST_1A":  # which has no frame in one byte
            with pytest.raises(ValueError, match=r"path: expected .* in .*sound\.wav, .*got"):
                read(tmp_path, whole + after)
    if whole[:7] != b"NIST_1A":
        for after in (bytes(80), b"TAG" + bytes(125)):
            assert len(read(tmp_path, whole + after)[0]) == 20000


def test_a_tag_before_the_header_loses_no_samples(tmp_path, whole):
    try:
        found, _ = read(tmp_path, ID3 + whole)
    except ValueError:
        return
    assert len(found) == 20000


@pytest.mark.parametrize("rate", [0, 2**31])
def test_a_rate_that_libsndfile_does_not_take(tmp_path, rate):
    with pytest.raises(ValueError, match=r"in .*sound\.wav, got a header with a wrong rate"):
        read(tmp_path, riff(rate=rate, bytes_a_second=0))
