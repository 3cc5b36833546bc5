"""The router against torch's masked attention, and weights at their edges."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

from cmt_bias.bias import AQRWeightGenerator, ConstantWeightGenerator, find_windows
from cmt_bias.cmt.position_encoding import CameraGeometry
from cmt_bias.ops import NOT_SEEN, QueryWindows, TokenLayout, Window

CHANNELS = 16


def some_windows(lidar_radius: int | None = 1) -> QueryWindows:
    torch.manual_seed(3)
    # the first camera looks along x, the second sees nothing of the range
    lidar2img = torch.tensor(
        [[[5.0, -5, 0, 0], [5, 0, -5, 0], [1, 0, 0, 0], [0, 0, 0, 1]], [[0.0] * 4] * 4]
    ).expand(2, -1, -1, -1)
    return find_windows(
        torch.rand(2, 6, 3),
        TokenLayout((4, 5), 2, (3, 4)),
        CameraGeometry(lidar2img, lidar2img, (10, 10)),
        [-5, -5, -5, 5, 5, 5],
        (Window(lidar_radius), Window(1)),
    )


@pytest.fixture
def inputs() -> dict[str, Any]:
    torch.manual_seed(4)
    return dict(
        query_pos=torch.randn(2, 6, CHANNELS),
        memory=torch.randn(2, 44, CHANNELS),
        memory_pos=torch.randn(2, 44, CHANNELS),
        img_metas=[{}, {}],
    )


def trained_router() -> AQRWeightGenerator:
    torch.manual_seed(5)
    router = AQRWeightGenerator(CHANNELS)
    for parameter in router.parameters():
        nn.init.normal_(parameter, std=0.3)
    return router


@pytest.mark.parametrize('lidar_radius', [1, None])
def test_router_equals_masked_attention_of_torch(inputs, lidar_radius):
    router, windows = trained_router(), some_windows(lidar_radius)
    reference = nn.MultiheadAttention(CHANNELS, 4, batch_first=True)
    with torch.no_grad():
        projections = (router.query_proj, router.key_proj, router.value_proj)
        reference.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        reference.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        reference.out_proj.load_state_dict(router.out_proj.state_dict())
    mask = windows.to_mask()
    assert mask.any(-1).all() and not mask.all()
    attended, _ = reference(
        layer_norm(inputs['query_pos'], (CHANNELS,)),
        layer_norm(inputs['memory'], (CHANNELS,)) + layer_norm(inputs['memory_pos'], (CHANNELS,)),
        inputs['memory'],
        attn_mask=~mask.repeat_interleave(4, dim=0),
    )
    routed = router.attention_norm(attended)
    expected = router.weight_logits(router.ffn_norm(router.ffn(routed))).tanh()
    actual = torch.stack(router(**inputs, windows=windows), dim=-1)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_position_says_where_to_look_and_nothing_else(inputs):
    router, windows = trained_router(), some_windows()
    nn.init.zeros_(router.query_proj.weight)  # looks at all tokens of its windows alike
    expected = torch.stack(router(**inputs, windows=windows))
    inputs['query_pos'] = 10 * torch.randn(2, 6, CHANNELS)
    torch.testing.assert_close(torch.stack(router(**inputs, windows=windows)), expected)


def test_where_it_looks_does_not_depend_on_how_large_positions_are(inputs):
    router, windows = trained_router(), some_windows()
    expected = torch.stack(router(**inputs, windows=windows))
    larger = dict(inputs, query_pos=30 * inputs['query_pos'], memory_pos=30 * inputs['memory_pos'])
    actual = torch.stack(router(**larger, windows=windows))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_tokens_outside_the_windows_do_not_count(inputs):
    router, windows = trained_router(), some_windows()
    expected = router(**inputs, windows=windows)
    outside = ~windows.to_mask()[:, 0]  # of the first query
    for name in ('memory', 'memory_pos'):
        inputs[name] = inputs[name].masked_fill(outside.unsqueeze(-1), 100.0)
    actual = router(**inputs, windows=windows)
    for modality in range(2):
        torch.testing.assert_close(actual[modality][:, 0], expected[modality][:, 0])


def test_fresh_router_gives_weights_of_zero_and_learns(inputs):
    router = AQRWeightGenerator(CHANNELS)
    lidar, camera = router(**inputs, windows=some_windows())
    assert not lidar.any() and not camera.any()
    (lidar.sum() - camera.sum()).backward()
    assert router.weight_logits.weight.grad.abs().sum() > 0


def test_query_without_any_token_gets_weights(inputs):
    router, windows = trained_router(), some_windows()
    windows.cells[:, :2] = NOT_SEEN
    weights = torch.stack(router(**inputs, windows=windows))
    assert torch.isfinite(weights).all()
    weights.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in router.parameters() if p.grad is not None)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_weights_are_float32_under_autocast(inputs, dtype):
    router, windows = trained_router(), some_windows()
    expected = torch.stack(router(**inputs, windows=windows))
    with torch.autocast('cpu', dtype):
        actual = torch.stack(router(**inputs, windows=windows))
    assert actual.dtype == torch.float32
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_constant_weights_are_the_same_for_all_queries(inputs):
    lidar, camera = ConstantWeightGenerator(0.5, -1.0)(**inputs, windows=some_windows())
    assert lidar.tolist() == [[0.5] * 6] * 2 and camera.tolist() == [[-1.0] * 6] * 2


def test_impossible_configs_name_the_key():
    with pytest.raises(ValueError, match=r'camera_weight=2.0 must lie in \[-1, 1\]'):
        ConstantWeightGenerator(camera_weight=2.0)
    with pytest.raises(ValueError, match='num_heads=3'):
        AQRWeightGenerator(16, num_heads=3)
