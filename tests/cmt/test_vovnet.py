"""VoVNet against the released class: names, numbers, freezing."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from cmt_bias.cmt.vovnet import VOVNET_SPECS, VoVNet

DATA = Path(__file__).parents[1] / 'data'
FORMULA = runpy.run_path(str(DATA / 'released_backbone' / 'deterministic_values.py'))
FEATURES = ('stem', 'stage2', 'stage3', 'stage4', 'stage5')
SMALL = 'V-19-slim-eSE'


def released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    lines = (DATA / 'released_parameter_names' / f'{name}.txt').read_text().splitlines()
    pairs = (line.split('\t') for line in lines)
    return {key: () if shape == '-' else tuple(map(int, shape.split(','))) for key, shape in pairs}


def test_parameter_names_and_shapes_are_the_released_ones():
    model = MODELS.build({'type': 'VoVNet', 'spec_name': 'V-99-eSE', 'out_features': ('stage4',)})
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == released_shapes('vovnet_V-99-eSE')


@torch.no_grad()
@pytest.mark.parametrize('spec', sorted(VOVNET_SPECS))
def test_outputs_equal_those_of_the_released_class(spec):
    model = VoVNet(spec, out_features=FEATURES).eval()
    FORMULA['fill_with_pseudo_random_values'](model)
    outputs = model(FORMULA['pseudo_random_values']((1, 3, 66, 95), stream=1000))
    with np.load(DATA / 'released_backbone' / 'vovnet.npz') as goldens:
        for name, output in zip(FEATURES, outputs, strict=True):
            expected = torch.from_numpy(goldens[f'{spec}/{name}'])
            tolerance = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(
                output[:, ::17, ::2, ::3], expected, rtol=1e-4, atol=tolerance
            )
            mean_abs = torch.from_numpy(goldens[f'{spec}/{name}/mean_abs'])
            torch.testing.assert_close(output.abs().mean(), mean_abs, rtol=1e-4, atol=0)


def test_feature_maps_come_from_fine_to_coarse_whatever_the_order_asked_for():
    model = VoVNet(SMALL, out_features=('stage5', 'stage3'))
    shapes = [tuple(output.shape) for output in model(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, 256, 8, 12), (2, 512, 2, 3)]


def test_norm_eval_keeps_running_statistics_in_training():
    model = VoVNet(SMALL, norm_eval=True).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_without_norm_eval_statistics_change_except_in_frozen_stages():
    model = VoVNet(SMALL, norm_eval=False, frozen_stages=1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    changed = {
        key.split('.')[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed == {'stage3', 'stage4', 'stage5'}


@pytest.mark.parametrize(
    ('frozen_stages', 'frozen'),
    [(-1, set()), (0, {'stem'}), (2, {'stem', 'stage2', 'stage3'}), (4, set(FEATURES))],
)
def test_frozen_stages_get_no_gradient(frozen_stages, frozen):
    model = VoVNet(SMALL, frozen_stages=frozen_stages)
    without_gradient = {
        key.split('.')[0] for key, value in model.named_parameters() if not value.requires_grad
    }
    with_gradient = {
        key.split('.')[0] for key, value in model.named_parameters() if value.requires_grad
    }
    assert (without_gradient, with_gradient) == (frozen, set(FEATURES) - frozen)


def test_training_mode_can_be_set_again_after_eval():
    model = VoVNet(SMALL, norm_eval=False).eval().train()
    assert all(module.training for module in model.modules() if isinstance(module, _BatchNorm))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'spec_name': 'V-98-eSE'}, "unknown spec_name 'V-98-eSE'.*V-99-eSE"),
        ({'spec_name': SMALL, 'out_features': ('stage6',)}, "'stage6'.*must be some of"),
        ({'spec_name': SMALL, 'out_features': ()}, 'must be some of'),
        ({'spec_name': SMALL, 'frozen_stages': 5}, 'frozen_stages=5'),
    ],
)
def test_arguments_that_name_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VoVNet(**arguments)
