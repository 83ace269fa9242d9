"""The flip-flop: its data are right, and the trained network has eight memories."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import flip_flop


def test_bits_are_the_signs_of_the_latest_pulses():
    config = flip_flop.Config(batch_size=4, steps=30)
    batch = flip_flop.sequences(np.random.default_rng(0), config)
    for pulses, bits in zip(batch["pulses"], batch["bits"], strict=True):
        for channel in range(3):
            latest = pulses[0, channel]
            assert latest != 0
            for t in range(30):
                latest = pulses[t, channel] or latest
                assert bits[t, channel] == latest
    assert 0.05 < (batch["pulses"][:, 1:] != 0).mean() < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_network_has_a_stable_point_for_each_combination(seed):
    config = flip_flop.Config(seed=seed)
    model = flip_flop.train(config)
    found, _ = flip_flop.analyse(model, config)
    stable = found.points[0][found.stable]
    bits = np.asarray(model.readout(stable))
    assert len(bits) == 8 and {tuple(row) for row in bits > 0} == set(np.ndindex(2, 2, 2))
    np.testing.assert_allclose(np.abs(bits), 1, atol=0.2)


@pytest.mark.slow
def test_the_program_prints_and_draws(tmp_path, capsys):
    config = dataclasses.replace(flip_flop.Config(), epochs=1, starts=20, out=tmp_path)
    found = flip_flop.main(config)
    printed = capsys.readouterr().out
    assert f"stable points: {found.stable.sum()};" in printed and "Lyapunov exponent" in printed
    assert (tmp_path / "fixed_points.png").stat().st_size > 0
