"""Numbers that are none are found in whatever holds them."""

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints
from mmengine.structures import BaseDataElement

from cmt_bias.non_finite_numbers import non_finite_numbers

NAN, INF = float('nan'), float('inf')
GOOD = {'a': [torch.ones(2), np.ones(2), 1.0, 'text', None], 'b': torch.arange(3)}


@pytest.mark.parametrize(
    ('bad', 'name'),
    [
        (torch.tensor([0.0, NAN]), 'c'),
        ((1, [np.array([1, NAN])]), 'c[1][0]'),
        ({'d': NAN}, 'c.d'),
        (BaseDataElement(velocity=torch.tensor([INF])), 'c.velocity'),
        (LiDARInstance3DBoxes(torch.full((1, 7), NAN)), 'c'),
        ([LiDARPoints(torch.full((1, 3), INF))], 'c[0]'),
        (torch.tensor(NAN + 0j), 'c'),
    ],
)
def test_the_way_to_it_is_named(bad, name):
    assert list(non_finite_numbers(GOOD)) == []
    assert list(non_finite_numbers({**GOOD, 'c': bad, 'e': NAN})) == [name, 'e']


def test_infinity_passes_where_only_nan_is_looked_for():
    assert list(non_finite_numbers([torch.tensor([INF])])) == ['[0]']
    assert list(non_finite_numbers([torch.tensor([INF])], only_nan=True)) == []


def test_data_that_contain_themselves_come_to_an_end():
    data: dict = {'x': NAN}
    data['self'] = [data]
    assert list(non_finite_numbers(data)) == ['x']
