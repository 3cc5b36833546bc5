"""Scale, weights and windows made into a bias; configuration and checkpoints."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.bias import AttentionBiasGenerator, find_windows
from cmt_bias.bias.scale import SCALE_GRANULARITIES
from cmt_bias.cmt.position_encoding import CameraGeometry
from cmt_bias.ops import TokenLayout, WindowedBias, dense_bias

PC_RANGE = [-8.0, -8.0, -2.0, 8.0, 8.0, 2.0]
LAYERS = 2  # as many as modalities: shapes alone do not tell the two apart
LAYOUT = TokenLayout((5, 5), 1, (3, 4))


def make(granularity: str = 'shared', **config) -> AttentionBiasGenerator:
    config = dict(dict(num_layers=LAYERS, lidar_window=3, camera_window=1), **config)
    return AttentionBiasGenerator(scale_granularity=granularity, **config)


def geometry() -> dict:
    # the camera looks along y and sees the second and third query
    lidar2img = torch.tensor([[[8.0, 8, 0, 0], [0, 6, -12, 0], [0, 1, 0, 0], [0, 0, 0, 1]]])
    return dict(
        reference_points=torch.tensor([[[0.3, 0.1, 0.5], [0.5, 0.9, 0.5], [0.55, 0.8, 0.5]]]),
        layout=LAYOUT,
        cameras=CameraGeometry(lidar2img[None], lidar2img[None].inverse(), (12, 16)),
        pc_range=PC_RANGE,
    )


def dense(generator: AttentionBiasGenerator, *weights: torch.Tensor) -> torch.Tensor:
    """``(L, B, Q, K)``; ``(1, B, Q, K)`` where layers do not differ."""
    windows = find_windows(**geometry(), shapes=generator.window_shapes)
    bias = generator(WindowedBias(windows, torch.stack(weights or WEIGHTS, dim=-1)))
    num_layers = 1 if bias.strength.dim() == 3 else len(bias.strength)
    return torch.stack([dense_bias(bias.of_layer(layer)) for layer in range(num_layers)])


WEIGHTS = torch.tensor([[0.5, -1.0, 0.25]]), torch.tensor([[1.0, 0.75, -0.5]])


@pytest.mark.parametrize('granularity', SCALE_GRANULARITIES)
@pytest.mark.parametrize('learnable', [True, False])
def test_bias_is_scale_times_weight_times_gain(granularity, learnable):
    generator = make(granularity, learnable_scale=learnable)
    with torch.no_grad():
        generator.bias_scale.copy_(torch.rand(generator.bias_scale.shape) + 1)
    in_window = find_windows(**geometry(), shapes=generator.window_shapes).to_mask().float()
    scale = generator.bias_scale.detach()
    if 'modality' not in granularity:
        scale = scale[..., None].expand(*scale.shape, 2)
    if 'layer' not in granularity:
        scale = scale[None]
    lidar = scale[:, 0, None, None, None] * WEIGHTS[0][..., None]
    camera = scale[:, 1, None, None, None] * WEIGHTS[1][..., None]
    expected = torch.cat((lidar * in_window[..., :25], camera * in_window[..., 25:]), dim=-1)
    torch.testing.assert_close(dense(generator), expected)
    assert in_window[..., 25:].any() and in_window[..., :25].any()


@pytest.mark.parametrize('granularity', SCALE_GRANULARITIES)
def test_scale_is_a_parameter_only_where_it_is_learned(granularity):
    learned, fixed = make(granularity, learnable_scale=True), make(granularity)
    shape = dict(shared=(), modality=(2,), layer=(2,), layer_modality=(2, 2))[granularity]
    assert dict(learned.named_parameters())['bias_scale'].shape == shape
    assert not dict(fixed.named_parameters())
    for generator in (learned, fixed):
        assert generator.state_dict()['bias_scale'].shape == shape
        assert len(generator.scale_names()) == generator.bias_scale.numel()
        assert generator.to(torch.float64).bias_scale.dtype == torch.float64


def test_shared_scale_is_a_plain_number():
    assert make().bias_scale.item() == make(learnable_scale=True).bias_scale.item() == 2.5


@pytest.mark.parametrize('granularity', SCALE_GRANULARITIES)
@pytest.mark.parametrize('loaded', SCALE_GRANULARITIES)
@pytest.mark.parametrize('learnable', [(True, False), (False, True)], ids=str)
def test_coarser_scales_load_into_finer_ones_and_finer_ones_are_refused(
    loaded, granularity, learnable
):
    source = make(loaded, learnable_scale=learnable[0])
    with torch.no_grad():
        source.bias_scale.copy_(torch.rand(source.bias_scale.shape) + 1)
    target = make(granularity, learnable_scale=learnable[1])
    finer = any(axis in loaded and axis not in granularity for axis in ('layer', 'modality'))
    if finer:
        with pytest.raises(ValueError, match=rf"'{loaded}'.*'{granularity}'.*scale_granularity="):
            target.load_state_dict(source.state_dict())
        return
    target.load_state_dict(source.state_dict())
    before, after = dense(source), dense(target)
    torch.testing.assert_close(after, before.expand_as(after), rtol=0, atol=0)


def test_scale_of_another_depth_is_refused():
    with pytest.raises(ValueError, match='num_layers'):
        make('layer', num_layers=3).load_state_dict(make('layer').state_dict())


def test_plain_number_without_the_other_buffers_loads():
    generator = make('layer_modality', learnable_scale=True)
    generator.load_state_dict({'bias_scale': torch.tensor(1.25)})
    assert torch.all(generator.bias_scale == 1.25)


def test_range_travels_with_the_checkpoint_unless_the_config_has_one():
    annealed = make()
    annealed.set_scale_range(0.5, 4.0)
    free, bounded = make(), make(max_scale=3.0)
    for generator in (free, bounded):
        generator.load_state_dict(annealed.state_dict())
    assert free.bounds() == (0.5, 4.0)
    assert bounded.bounds() == (-torch.inf, 3.0)


def test_range_holds_for_the_scale_in_effect():
    generator = make('modality', max_scale=3.0)
    generator.bias_scale[:] = torch.tensor([5.0, 1.0])
    assert generator.scale_in_effect().tolist() == [3.0, 1.0]


@given(
    seed=st.integers(0, 1000),
    granularity=st.sampled_from(SCALE_GRANULARITIES),
    window_shape=st.sampled_from(['uniform', 'gaussian']),
    lidar_window=st.sampled_from([3, None]),
)
def test_gradients_agree_with_finite_differences(seed, granularity, window_shape, lidar_window):
    torch.manual_seed(seed)
    shape = dict(window_shape=window_shape, lidar_window=lidar_window)
    generator = make(granularity, learnable_scale=True, **shape).double()
    windows = find_windows(**geometry(), shapes=generator.window_shapes)

    def bias(scale, weights):
        trust = WindowedBias(windows, weights)
        found = torch.func.functional_call(generator, dict(bias_scale=scale), (trust,))
        return torch.stack([dense_bias(found.of_layer(layer)) for layer in range(LAYERS)])

    generator.eval()  # in training the parameter is projected in place
    inputs = (
        torch.rand(generator.bias_scale.shape, dtype=torch.float64, requires_grad=True),
        torch.rand(1, 3, 2, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(bias, inputs)


@pytest.mark.parametrize('bounds', [{}, dict(min_scale=1.0, max_scale=3.0)])
def test_one_backward_pass_of_two_forward_passes(bounds):
    """As where a loss compares two views of a batch."""
    generator = make(learnable_scale=True, **bounds).train()
    windows = find_windows(**geometry(), shapes=generator.window_shapes)
    trust = WindowedBias(windows, torch.stack(WEIGHTS, dim=-1))
    losses = [generator(trust).strength.sum() for _ in range(2)]
    sum(losses).backward()
    assert generator.bias_scale.grad == 2 * trust.strength.sum()


def test_gaussian_window_falls_off_with_the_distance():
    generator = make(window_shape='gaussian', sigma=(1.0, 2.0), bias_scale=2.0)
    values = dense(generator, torch.ones(1, 3), WEIGHTS[1])[0, 0, 1, :25].view(5, 5)
    assert values[4, 2] == 2.0
    torch.testing.assert_close(values[4, 1], 2 * torch.tensor(-0.5).exp())
    torch.testing.assert_close(values[3, 1], 2 * torch.tensor(-1.0).exp())


def test_bias_stays_float32_under_autocast():
    generator = make(learnable_scale=True)
    expected = dense(generator)
    with torch.autocast('cpu', torch.bfloat16):
        actual = dense(generator)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(lidar_window=4), r'lidar_window=4 must be an odd positive number'),
        (dict(camera_window=0), r'camera_window=0 must be an odd positive number'),
        (dict(camera_window=-3), r'camera_window=-3'),
        (dict(lidar_window=2.5), r'lidar_window=2.5'),
        (dict(min_scale=2.0, max_scale=2.0), r'min_scale=2.0 must be less than max_scale=2.0'),
        (dict(min_scale=3.0), r'bias_scale=2.5 is outside \[min_scale=3.0'),
        (dict(max_scale=1.0), r'bias_scale=2.5 is outside'),
        (dict(granularity='head'), r"scale_granularity='head' is unknown; choose one of shared"),
        (dict(granularity='layer', num_layers=None), r'needs num_layers'),
        (dict(window_shape='round'), r"window_shape='round' is unknown"),
        (dict(sigma=2.0), r'sigma=2.0 has no effect'),
        (dict(sigma=-1.0, window_shape='gaussian'), r'sigma=-1.0 must be positive'),
        (dict(sigma=float('nan'), window_shape='gaussian'), r'sigma=nan must be positive'),
        (dict(sigma=(1.0, float('inf')), window_shape='gaussian'), r'sigma=.*must be positive'),
        (dict(bias_scale=float('inf')), r'bias_scale=inf must be a finite number'),
        (dict(bias_scale=float('nan')), r'bias_scale=nan must be a finite number'),
        (dict(max_scale=float('nan')), r'max_scale=nan must be a finite number; leave it out'),
    ],
)
def test_impossible_config_names_the_key_and_the_remedy(config, message):
    with pytest.raises(ValueError, match='attention_bias_config: .*' + message):
        make(**config)
