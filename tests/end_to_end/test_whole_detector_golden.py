"""The whole released recipe, from files to boxes and losses, against numbers recorded once."""

import json

import numpy as np
import pytest

from .reduced_recipe import FRAME, GOLDEN, measure

# Another order of sums gives other last digits; a change of what is computed gives much more.
TOLERANCE = 2e-4


@pytest.fixture(scope='module')
def measured() -> dict:
    if not FRAME.is_dir():
        pytest.skip(f'{FRAME} is not there: the whole detector is not tested')
    return measure()


@pytest.fixture(scope='module')
def golden() -> dict:
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize('mode', ['test', 'training'])
@pytest.mark.parametrize('part', ['inputs', 'stages'])
def test_every_stage_gives_what_it_gave(measured, golden, mode, part):
    actual, expected = measured[mode][part], golden[mode][part]
    assert actual.keys() == expected.keys()
    wrong = {}
    for name, numbers in expected.items():
        _, size, _ = numbers
        if not np.allclose(actual[name], numbers, rtol=0, atol=TOLERANCE * size):
            wrong[name] = (actual[name], numbers)
    assert not wrong, f'the first stage that differs is the place to look: {wrong}'


def test_the_best_boxes_are_those_of_then(measured, golden):
    actual, expected = measured['test'], golden['test']
    assert actual['labels'] == expected['labels']
    np.testing.assert_allclose(actual['scores'], expected['scores'], rtol=TOLERANCE)
    np.testing.assert_allclose(actual['boxes'], expected['boxes'], rtol=TOLERANCE, atol=1e-3)


def test_objects_are_pasted_and_losses_are_those_of_then(measured, golden):
    actual, expected = measured['training'], golden['training']
    assert actual['num_truth'] == expected['num_truth']
    np.testing.assert_allclose(actual['truth'], expected['truth'], rtol=TOLERANCE)
    assert actual['losses'].keys() == expected['losses'].keys()
    for name, loss in expected['losses'].items():
        assert actual['losses'][name] == pytest.approx(loss, rel=TOLERANCE), name
