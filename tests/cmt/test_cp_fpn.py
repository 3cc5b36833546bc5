"""CPFPN against the released class: names, numbers, unused parameters."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS

from cmt_bias.cmt.cp_fpn import CPFPN

DATA = Path(__file__).parents[1] / 'data'
FORMULA = runpy.run_path(str(DATA / 'released_backbone' / 'deterministic_values.py'))
CASES = {'two': ([6, 10], 2), 'pooled': ([4, 6, 10], 4)}


def make_inputs(channels: list[int]) -> list[torch.Tensor]:
    return [
        FORMULA['pseudo_random_values']((2, count, 14 >> i, 22 >> i), stream=2000 + i)
        for i, count in enumerate(channels)
    ]


@pytest.mark.parametrize('case', CASES)
def test_parameter_names_and_shapes_are_the_released_ones(case):
    channels, num_outs = CASES[case]
    model = MODELS.build(
        {'type': 'CPFPN', 'in_channels': channels, 'out_channels': 5, 'num_outs': num_outs}
    )
    lines = (DATA / 'released_parameter_names' / f'cp_fpn_{case}.txt').read_text().splitlines()
    shapes = [f'{k}\t{",".join(map(str, v.shape))}' for k, v in model.state_dict().items()]
    assert shapes == lines


@torch.no_grad()
@pytest.mark.parametrize('case', CASES)
def test_outputs_equal_those_of_the_released_class(case):
    channels, num_outs = CASES[case]
    model = CPFPN(in_channels=channels, out_channels=5, num_outs=num_outs).eval()
    FORMULA['fill_with_pseudo_random_values'](model)
    outputs = model(make_inputs(channels))
    with np.load(DATA / 'released_backbone' / 'cp_fpn.npz') as goldens:
        assert len(outputs) == num_outs
        for level, output in enumerate(outputs):
            expected = torch.from_numpy(goldens[f'{case}/{level}'])
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient_from_the_finest_level_alone():
    model = CPFPN(in_channels=[4, 6, 10], out_channels=5, num_outs=3)
    model(make_inputs([4, 6, 10]))[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
