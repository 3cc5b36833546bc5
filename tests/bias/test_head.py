"""The biased head beside the golden CMT head."""

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import ConfigDict

from cmt_bias.bias.scale import SCALE_GRANULARITIES
from cmt_bias.ops import biased_attention, dense_bias

from .golden_head import (
    ARRAYS,
    NUM_LAYERS,
    SPEC,
    build_baseline,
    build_biased,
    features,
    golden_state,
    metas,
    run,
)

VIEWS = ARRAYS['lidar2img'].shape[1]


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('granularity', SCALE_GRANULARITIES)
@pytest.mark.parametrize('window', [3, None])
def test_fresh_router_leaves_the_baselines_outputs(training, granularity, window):
    biased = build_biased(
        learnable_scale=True,
        scale_granularity=granularity,
        lidar_window=window,
        camera_window=window,
    )
    expected, actual = run(build_baseline(), training), run(biased, training)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        size = values.abs().max()
        assert (actual[name] - values).abs().max() <= 1e-6 * max(size, 1), name


def test_only_the_new_parts_are_missing_from_a_cmt_checkpoint():
    biased = build_biased(learnable_scale=True)
    missing, unexpected = biased.load_state_dict(golden_state(), strict=False)
    assert not unexpected
    assert {key.split('.')[0] for key in missing} == {
        'weight_generator',
        'attention_bias_generator',
    }
    new_parts = {
        key for key in biased.state_dict() if key.startswith(('weight_g', 'attention_bias_g'))
    }
    assert set(missing) == new_parts


def attention_mass(head: torch.nn.Module, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mass on the windows in each layer, ``(L, B, H, Q)``, as computed and as expected.

    What is computed is read off the attention's output for values that are one in the windows.
    """
    layers = head.transformer.decoder.layers
    actual, expected = [], []

    def measure(module, args, kwargs):
        query, key, _ = args
        bias = kwargs['logit_bias']
        q, k, _ = module.project_heads(query + kwargs['query_pos'], key + kwargs['key_pos'], key)
        dense = dense_bias(bias)
        in_window = bias.windows.to_mask()
        for one_query in (0, 5, dense.shape[1] - 1):
            value = in_window[:, None, one_query, :, None].expand_as(k).to(k)
            mass = biased_attention(q, k, value, bias, backend=module.bias_backend)
            logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + dense[:, None]
            actual.append(mass[:, :, one_query, 0])
            expected.append((logits.softmax(-1) @ value)[:, :, one_query, 0])

    hooks = [
        layer.cross_attention.register_forward_pre_hook(measure, with_kwargs=True)
        for layer in layers
    ]
    run(head, training)
    for hook in hooks:
        hook.remove()
    return torch.stack(actual), torch.stack(expected)


@pytest.mark.parametrize('cls', ['PETRMultiheadAttention', 'PETRMultiheadFlashAttention'])
@pytest.mark.parametrize('granularity', ['shared', 'layer_modality'])
@pytest.mark.parametrize('training', [False, True])
def test_weights_move_attention_as_the_dense_bias_says(cls, granularity, training):
    assert len(SPEC['cfg']['transformer']['decoder']['transformerlayers']['attn_cfgs']) == 2
    masses = {}
    for weight in (-1.0, 0.0, 1.0):
        head = build_biased(
            dict(type='ConstantWeightGenerator', lidar_weight=weight, camera_weight=weight),
            scale_granularity=granularity,
            lidar_window=3,
            camera_window=3,
        )
        for layer in head.transformer.decoder.layers:
            attention = layer.cross_attention
            attention.__class__ = MODELS.get(cls)
        with torch.no_grad():
            actual, expected = attention_mass(head, training)
        assert len(actual) == 3 * NUM_LAYERS
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
        masses[weight] = actual
    # The first layer's queries are the same whatever the bias: there the order is certain.
    first = slice(0, 3)
    assert torch.all(masses[-1.0][first] < masses[0.0][first])
    assert torch.all(masses[0.0][first] < masses[1.0][first])


def test_trust_in_one_sensor_moves_attention_to_its_tokens():
    num_bev = ARRAYS['pts_feat'].shape[-1] * ARRAYS['pts_feat'].shape[-2]
    shares = {}
    for lidar, camera in ((1.0, -1.0), (-1.0, 1.0)):
        head = build_biased(
            dict(type='ConstantWeightGenerator', lidar_weight=lidar, camera_weight=camera),
            lidar_window=None,
            camera_window=None,
        )
        taken = []

        def measure(module, args, kwargs, taken=taken):
            query, key, _ = args
            q, k, _ = module.project_heads(
                query + kwargs['query_pos'], key + kwargs['key_pos'], key
            )
            value = torch.zeros_like(k)
            value[:, :, :num_bev] = 1
            taken.append(biased_attention(q, k, value, kwargs['logit_bias'])[..., 0].mean())

        head.transformer.decoder.layers[0].cross_attention.register_forward_pre_hook(
            measure, with_kwargs=True
        )
        with torch.no_grad():
            run(head, training=False)
        shares[lidar] = taken[0]
    assert shares[1.0] > shares[-1.0] + 0.3


def test_each_sample_uses_its_own_calibration():
    head = build_biased(dict(type='ConstantWeightGenerator'), lidar_window=3, camera_window=3)
    head.eval()
    pts, img = features()
    with torch.no_grad():
        together = head(pts, img, metas())[0][0]
        for sample in range(2):
            views = slice(sample * VIEWS, (sample + 1) * VIEWS)
            alone = head(
                [pts[0][sample : sample + 1]], [img[0][views]], metas()[sample : sample + 1]
            )[0][0]
            for name, values in alone.items():
                torch.testing.assert_close(
                    values[:, 0], together[name][:, sample], rtol=1e-4, atol=1e-4
                )


@pytest.mark.parametrize('missing', ['lidar', 'camera'])
@pytest.mark.parametrize('window', [3, None])
def test_a_missing_sensor_runs_through(missing, window):
    head = build_biased(learnable_scale=True, lidar_window=window, camera_window=window).eval()
    pts, img = features()
    outputs = head(
        None if missing == 'lidar' else pts, None if missing == 'camera' else img, metas()
    )
    assert torch.isfinite(outputs[0][0]['center']).all()


def test_denoising_queries_get_weights_like_any_other():
    head = build_biased(learnable_scale=True)
    given = []
    head.weight_generator.register_forward_hook(lambda _, args, out: given.append(out))
    outputs = run(head, training=True)
    queries = outputs['center'].shape[2] + outputs['dn_center'].shape[2]
    assert given[0][0].shape == given[0][1].shape == (2, queries)


def test_scale_and_router_get_gradients():
    head = build_biased(learnable_scale=True, lidar_window=3, camera_window=3)
    torch.nn.init.normal_(head.weight_generator.weight_logits.weight, std=0.1)
    sum(values.square().mean() for values in run(head, training=True).values()).backward()
    assert head.attention_bias_generator.bias_scale.grad.abs() > 0
    for name, parameter in head.weight_generator.named_parameters():
        if name != 'key_proj.bias':  # softmax does not see it
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('training', [False, True])
def test_half_precision_is_finite_and_near_float32(dtype, training):
    head = build_biased(learnable_scale=True, lidar_window=3, camera_window=3)
    torch.nn.init.normal_(head.weight_generator.weight_logits.weight, std=0.1)
    baseline = build_baseline()
    errors = {}
    for name, model in dict(biased=head, baseline=baseline).items():
        with torch.no_grad():
            expected = run(model, training)['cls_logits']
            with torch.autocast('cpu', dtype):
                actual = run(model, training)['cls_logits']
        assert torch.isfinite(actual).all()
        errors[name] = (actual - expected).abs().max()
    assert errors['biased'] < 4 * errors['baseline'] + torch.finfo(dtype).eps


def test_plain_transformer_is_refused():
    config = ConfigDict(SPEC['cfg'], type='AttentionBiasCmtHead')
    with pytest.raises(TypeError, match="transformer=dict\\(type='AttentionBiasCmtTransformer'"):
        MODELS.build(config)


def test_wrong_number_of_layers_is_refused():
    with pytest.raises(ValueError, match='num_layers=9'):
        build_biased(num_layers=9)


def test_weight_generator_without_a_type_is_the_usual_one():
    head = build_biased(dict(num_heads=2))
    assert type(head.weight_generator) is MODELS.get('AQRWeightGenerator')
    assert head.weight_generator.num_heads == 2


def test_unknown_key_is_named_with_the_nearest_known_one():
    config = ConfigDict(SPEC['cfg'], type='AttentionBiasCmtHead', attention_bias_cfg=dict())
    with pytest.raises(TypeError, match="did you mean 'attention_bias_config'"):
        MODELS.build(config)


@pytest.mark.parametrize(
    ('modality', 'value', 'message'),
    [
        (0, torch.ones(2, 3), r'lidar_weights have the shape \(2, 3\).*\(batch, queries\)'),
        (1, None, r'camera_weights reach 1.5.*tanh'),
    ],
)
def test_weights_of_the_wrong_shape_or_size_are_refused(modality, value, message):
    head = build_biased(dict(type='ConstantWeightGenerator'))

    def spoil(module, args, weights):
        return tuple(
            (1.5 * of_sensor if value is None else value) if number == modality else of_sensor
            for number, of_sensor in enumerate(weights)
        )

    head.weight_generator.register_forward_hook(spoil)
    with pytest.raises(ValueError, match='weight_generator: ' + message):
        run(head, training=False)
