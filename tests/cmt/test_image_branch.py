"""VoVNet, CPFPN and GridMask against the released classes: names, numbers, what is trained."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from cmt_bias.cmt.image_branch import CPFPN, VOVNET_SPECS, GridMask, VoVNet

DATA = Path(__file__).parents[1] / 'data'
FORMULA = runpy.run_path(str(DATA / 'released_backbone' / 'deterministic_values.py'))
FEATURES = ('stem', 'stage2', 'stage3', 'stage4', 'stage5')
SMALL = 'V-19-slim-eSE'
FPN_CASES = {'two': ([6, 10], 2), 'pooled': ([4, 6, 10], 4)}


def released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    lines = (DATA / 'released_parameter_names' / f'{name}.txt').read_text().splitlines()
    pairs = (line.split('\t') for line in lines)
    return {key: () if shape == '-' else tuple(map(int, shape.split(','))) for key, shape in pairs}


def test_parameter_names_and_shapes_of_vovnet_are_the_released_ones():
    model = MODELS.build({'type': 'VoVNet', 'spec_name': 'V-99-eSE', 'out_features': ('stage4',)})
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == released_shapes('vovnet_V-99-eSE')


@torch.no_grad()
@pytest.mark.parametrize('spec', sorted(VOVNET_SPECS))
def test_outputs_of_vovnet_equal_those_of_the_released_class(spec):
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
def test_arguments_of_vovnet_that_name_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VoVNet(**arguments)


def fpn_inputs(channels: list[int]) -> list[torch.Tensor]:
    return [
        FORMULA['pseudo_random_values']((2, count, 14 >> i, 22 >> i), stream=2000 + i)
        for i, count in enumerate(channels)
    ]


@pytest.mark.parametrize('case', FPN_CASES)
def test_parameter_names_and_shapes_of_cpfpn_are_the_released_ones(case):
    channels, num_outs = FPN_CASES[case]
    model = MODELS.build(
        {'type': 'CPFPN', 'in_channels': channels, 'out_channels': 5, 'num_outs': num_outs}
    )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    expected = released_shapes(f'cp_fpn_{case}')
    assert list(shapes.items()) == list(expected.items())


@torch.no_grad()
@pytest.mark.parametrize('case', FPN_CASES)
def test_outputs_of_cpfpn_equal_those_of_the_released_class(case):
    channels, num_outs = FPN_CASES[case]
    model = CPFPN(in_channels=channels, out_channels=5, num_outs=num_outs).eval()
    FORMULA['fill_with_pseudo_random_values'](model)
    outputs = model(fpn_inputs(channels))
    with np.load(DATA / 'released_backbone' / 'cp_fpn.npz') as goldens:
        assert len(outputs) == num_outs
        for level, output in enumerate(outputs):
            expected = torch.from_numpy(goldens[f'{case}/{level}'])
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_of_cpfpn_gets_a_gradient_from_the_finest_level_alone():
    model = CPFPN(in_channels=[4, 6, 10], out_channels=5, num_outs=3)
    model(fpn_inputs([4, 6, 10]))[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_same_seed_gives_the_grids_of_the_released_class():
    grid_mask = GridMask().train()
    with np.load(DATA / 'released_backbone' / 'grid_mask.npz') as goldens:
        expected = torch.from_numpy(goldens['released'])
    np.random.seed(11)
    for grid in expected:
        torch.testing.assert_close(grid_mask(torch.ones(2, 3, *grid.shape))[1, 2], grid)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    height=st.integers(3, 40),
    width=st.integers(2, 40),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_grid_is_the_middle_of_a_painted_canvas(height, width, ratio, seed):
    draw = np.random.RandomState(seed)
    draw.rand()
    period = draw.randint(2, height)
    stripe = min(max(int(period * ratio + 0.5), 1), period - 1)
    canvas = torch.zeros(int(1.5 * height), int(1.5 * width))
    for axis in (0, 1):
        start = draw.randint(period)
        for number in range(canvas.shape[axis] // period):
            canvas.transpose(0, axis)[start + number * period :][:stripe] = 1
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2

    np.random.seed(seed)
    images = GridMask(ratio, prob=1.0).train()(torch.ones(1, 1, height, width))
    assert torch.equal(images[0, 0], canvas[top : top + height, left : left + width])


@pytest.mark.parametrize('prob', [1.0, 0.0])
def test_eval_mode_and_probability_zero_leave_the_input_alone(prob):
    grid_mask = GridMask(prob=prob).train(not prob)
    images = torch.rand(2, 3, 16, 16)
    assert all(grid_mask(images) is images for _ in range(20))


def test_grid_mask_in_eval_mode_draws_nothing():
    np.random.seed(5)
    GridMask(prob=1.0).eval()(torch.rand(2, 3, 16, 16))
    assert np.random.rand() == np.random.RandomState(5).rand()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_pixels_that_a_grid_keeps_are_those_of_the_input(dtype):
    images = torch.rand(2, 3, 24, 32).to(dtype) + 2
    np.random.seed(0)
    covered = GridMask(prob=1.0).train()(images)
    assert covered.dtype == dtype
    kept = covered == images
    assert 0 < kept.float().mean() < 1
    assert covered[~kept].abs().max() == 0
