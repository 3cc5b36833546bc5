"""What is seen of the bias in a forward pass of a head, and which queries of it are shown."""

import copy

import numpy as np
import pytest
import torch

from cmt_bias.cmt import MultiTaskBBoxCoder
from cmt_bias.metrics.attention_mass import watch_attention
from cmt_bias.ops import Window, biased_attention
from cmt_bias.visualization import (
    CameraView,
    ObservedBias,
    Scene,
    draw_bias,
    mass_table,
    observe_bias,
)

from .tiny_biased_head import (
    CAMERA_SHAPE,
    NUM_LAYERS,
    PAD_SHAPE,
    WEIGHTS,
    build_head,
    lidar2img,
    sample_inputs,
)

CLASSES = (
    *('car', 'truck', 'construction_vehicle', 'bus', 'trailer'),
    *('barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone'),
)


def observe(
    head: torch.nn.Module, sensors: str = 'LC', score_thr: float = 0.0, max_queries: int = 4
) -> tuple[Scene, ObservedBias]:
    """A scene, and what was seen of the head's bias in it."""
    inputs = sample_inputs(sensors)
    _, observed = observe_bias(head, lambda: head(*inputs), score_thr, max_queries)
    views = zip(range(CAMERA_SHAPE[0]), lidar2img(), strict=True)
    scene = Scene(
        CLASSES,
        [
            CameraView(f'camera {number}', np.full((*PAD_SHAPE, 3), 90, np.uint8), matrix)
            for number, matrix in views
            if 'C' in sensors
        ],
        points=np.zeros((1, 3)),
        title='scene-0001: rain',
        subtitle='sample 3, token abc',
    )
    return scene, observed


def test_observing_leaves_the_outputs_alone_and_no_hook_behind():
    head = build_head()
    with torch.no_grad():
        expected = head(*sample_inputs())[0][0]
    observed = observe_bias(head, lambda: head(*sample_inputs()), 0.0, 4)[0][0][0]
    for name, values in expected.items():
        assert torch.equal(observed[name], values), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in head.modules())


def test_detections_know_their_queries():
    """The decoded centre of a detection is that of its query in the last layer."""
    head = build_head()
    _, observed = observe(head, max_queries=100)
    with torch.no_grad():
        centres = head(*sample_inputs())[0][0]['center'][-1, 0, observed.queries]
    assert len(centres) == len(observed.detections) > 1
    torch.testing.assert_close(observed.detections.bboxes_3d.tensor[:, :2], centres)


@torch.no_grad()
def test_observed_attention_is_the_decoders():
    """With values that are one on LiDAR tokens, the layer's own attention gives their share."""
    head, layers = build_head(), []
    handles = watch_attention(head, lambda *layer: layers.append(layer))
    _, observed = observe(head)
    for handle in handles:
        handle.remove()
    lidar = observed.mass[..., :2].sum(-1)  # (L, 2)
    assert len(layers) == len(observed.biases) == NUM_LAYERS
    for number, (query, key, bias) in enumerate(layers):
        value = torch.zeros_like(key)
        value[:, :, : bias.windows.layout.num_lidar_tokens] = 1
        attended = biased_attention(query, key, value, bias)[:, :, observed.queries, 0].mean()
        assert lidar[number, 1] == pytest.approx(attended.item(), rel=1e-4)
    assert (lidar[:, 1] > lidar[:, 0]).any()


def test_with_scale_zero_the_bias_changes_nothing(monkeypatch):
    scaled = build_head()
    unscaled = copy.deepcopy(scaled)
    unscaled.attention_bias_generator.bias_scale.zero_()
    both = [observe(head, max_queries=100)[1].queries.tolist() for head in (scaled, unscaled)]
    query = min(set(both[0]) & set(both[1]))
    decode = MultiTaskBBoxCoder.decode

    def of_one_query(*args) -> list[dict[str, torch.Tensor]]:
        """The query's detections alone."""
        (found,) = decode(*args)
        return [{name: values[found['queries'] == query] for name, values in found.items()}]

    monkeypatch.setattr(MultiTaskBBoxCoder, 'decode', of_one_query)
    mass, mass_unscaled = (observe(head)[1].mass for head in (scaled, unscaled))
    without, with_bias = mass_unscaled.swapaxes(0, 1)  # (L, 4) each
    np.testing.assert_array_equal(without, with_bias)
    # the first layer gets the same inputs, whatever the scale
    np.testing.assert_allclose(without[0], mass[0, 0], rtol=1e-5)
    assert np.abs(mass[0, 1] - mass[0, 0]).max() > 1e-3


@torch.no_grad()
def test_the_best_detection_of_each_query_is_shown_best_first():
    head, inputs = build_head(), sample_inputs()
    outputs = head(*inputs)
    scores = head.predict_by_feat(outputs, inputs[2])[0].scores_3d
    queries = head.decode_boxes(outputs)[0]['queries']
    threshold = float(scores.median())
    _, observed = observe(head, score_thr=threshold, max_queries=100)
    reached = scores >= threshold
    assert f'of {int(reached.sum())} detections with score ≥' in observed.choice
    assert observed.choice.startswith(f'{len(observed.queries)} queries shown')
    shown = observed.detections.scores_3d
    assert (shown.diff() <= 0).all()
    assert shown[0] == scores.max()
    assert sorted(observed.queries.tolist()) == queries[reached].unique().tolist()
    for query, score in zip(observed.queries, shown, strict=True):
        assert score == scores[queries == query].max()
    best = observe(head, score_thr=threshold, max_queries=2)[1]
    assert best.queries.tolist() == observed.queries[:2].tolist()


@pytest.mark.parametrize(
    ('granularity', 'scale', 'expected'),
    [
        ('shared', 2.0, [[2.0, 2.0], [2.0, 2.0]]),
        ('modality', [2.0, 3.0], [[2.0, 3.0], [2.0, 3.0]]),
        ('layer', [1.0, 4.0], [[1.0, 1.0], [4.0, 4.0]]),
        ('layer_modality', [[1.0, 2.0], [3.0, 5.0]], [[1.0, 2.0], [3.0, 5.0]]),
    ],
)
def test_every_granularity_gives_the_bias_of_the_layer(granularity, scale, expected):
    head = build_head(scale_granularity=granularity)
    shape = head.attention_bias_generator.bias_scale.shape
    head.attention_bias_generator.bias_scale.copy_(torch.tensor(scale).expand(shape))
    scene, observed = observe(head)
    np.testing.assert_allclose(observed.scales, expected)
    np.testing.assert_allclose(observed.weights, [WEIGHTS] * 4, rtol=1e-6)
    for bias, of_layer in zip(observed.biases, expected, strict=True):
        strength = np.array(WEIGHTS) * of_layer
        np.testing.assert_allclose(bias.strength[0], [strength] * 4, rtol=1e-6)
    figure = draw_bias(scene, observed, NUM_LAYERS - 1)
    *cameras, lidar = (axes.images[-1] for axes in figure.axes[: CAMERA_SHAPE[0] + 1])
    for number, maps in enumerate(([lidar], cameras)):
        shown = np.ma.concatenate([of_map.get_array().ravel() for of_map in maps]).compressed()
        np.testing.assert_allclose(shown, expected[-1][number] * WEIGHTS[number], rtol=1e-6)


@pytest.mark.parametrize('sensors', ['L', 'C', 'LC'])
@pytest.mark.parametrize('window', [3, None])
def test_missing_sensors_and_missing_windows_run_through(sensors, window):
    head = build_head()
    shape = Window(None if window is None else window // 2)
    head.attention_bias_generator.window_shapes = (shape, shape)
    scene, observed = observe(head, sensors)
    table = mass_table(observed)
    np.testing.assert_allclose(table['lidar'] + table['camera'], 1, rtol=1e-5)
    if window is None:
        np.testing.assert_allclose(table['windows'], 1, rtol=1e-5)
    if sensors != 'LC':
        assert (table['camera' if sensors == 'L' else 'lidar'] == 0).all()
    draw_bias(scene, observed, 0)


def test_without_detections_there_is_a_table_of_nothing_and_a_picture():
    scene, observed = observe(build_head(), score_thr=1.1)
    table = mass_table(observed)
    assert (table['queries'] == 0).all()
    assert table['lidar'].isna().all()
    draw_bias(scene, observed, 0)


def test_the_table_has_sums_of_the_parts():
    _, observed = observe(build_head())
    table = mass_table(observed)
    assert table['layer'].tolist() == [layer for layer in range(NUM_LAYERS) for _ in range(2)]
    assert table['bias'].tolist() == ['without', 'with'] * NUM_LAYERS
    np.testing.assert_allclose(table['lidar'][1], observed.mass[0, 1, :2].sum())
    np.testing.assert_allclose(table['windows'][1], observed.mass[0, 1, [0, 3]].sum())


@pytest.mark.parametrize('number', [0, 2])
def test_any_number_of_passes_but_one_is_refused(number):
    head = build_head()
    with pytest.raises(RuntimeError, match='one forward pass of one sample'):
        observe_bias(head, lambda: [head(*sample_inputs()) for _ in range(number)], 0.0, 4)


def test_a_batch_of_two_samples_is_refused():
    head = build_head()
    ((bev,), (images,), metas) = sample_inputs()
    two = [torch.cat([bev, bev])], [torch.cat([images, images])], metas * 2
    with pytest.raises(RuntimeError, match='one forward pass of one sample'):
        observe_bias(head, lambda: head(*two), 0.0, 4)
