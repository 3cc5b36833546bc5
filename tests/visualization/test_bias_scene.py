"""From a forward pass of a biased head to what a picture shows."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from cmt_bias.ops import Window, WindowedBias, biased_attention
from cmt_bias.visualization import (
    BiasObserver,
    CameraView,
    DetectionScene,
    LabelledBoxes,
    draw_bias,
    make_bias_scene,
    mass_table,
)

from .tiny_biased_head import (
    BEV_SHAPE,
    CAMERA_SHAPE,
    NUM_LAYERS,
    PAD_SHAPE,
    SCALE,
    WEIGHTS,
    build_head,
    lidar2img,
    sample_inputs,
)

CLASSES = (
    *('car', 'truck', 'construction_vehicle', 'bus', 'trailer'),
    *('barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone'),
)


@torch.no_grad()
def observe(head: torch.nn.Module, sensors: str = 'LC') -> tuple:
    """What was observed, and the boxes found."""
    inputs = sample_inputs(sensors)
    with BiasObserver(head) as observer:
        outputs = head(*inputs)
    return observer.observation(), head.predict_by_feat(outputs, inputs[2])[0]


def scene_of(found: InstanceData, with_cameras: bool = True) -> DetectionScene:
    cameras = [
        CameraView(f'camera {number}', np.full((*PAD_SHAPE, 3), 90, np.uint8), matrix)
        for number, matrix in enumerate(lidar2img())
    ]
    return DetectionScene(
        CLASSES,
        cameras if with_cameras else [],
        points=np.zeros((1, 3)),
        detections=LabelledBoxes(
            found.bboxes_3d.tensor.numpy(), found.labels_3d.numpy(), found.scores_3d.numpy()
        ),
        title='scene-0001: rain',
        subtitle='sample 3, token abc',
    )


def test_observing_leaves_the_outputs_alone_and_no_hook_behind():
    head = build_head()
    with torch.no_grad():
        expected = head(*sample_inputs())[0][0]
        with BiasObserver(head):
            observed = head(*sample_inputs())[0][0]
    for name, values in expected.items():
        assert torch.equal(observed[name], values), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in head.modules())


def test_detections_know_their_queries():
    """The decoded centre of a detection is that of its query in the last layer."""
    head = build_head()
    inputs = sample_inputs()
    with torch.no_grad(), BiasObserver(head) as observer:
        outputs = head(*inputs)
    found = head.predict_by_feat(outputs, inputs[2])[0]
    queries = observer.observation().detection_queries
    assert len(queries) == len(found.bboxes_3d) > 1
    centres = outputs[0][0]['center'][-1, 0, queries]
    torch.testing.assert_close(found.bboxes_3d.tensor[:, :2], centres)


@torch.no_grad()
def test_observed_attention_is_the_decoders():
    """With values that are one on LiDAR tokens, the layer's own attention gives their share."""
    head = build_head()
    observation, _ = observe(head)
    queries = torch.tensor([0, 7, 31])
    mass = observation.attention_mass(queries)
    lidar = mass[..., :2].sum(-1)  # (L, 2, n)
    for number, layer in enumerate(observation.layers):
        value = torch.zeros_like(layer.key)
        value[:, :, : observation.layout.num_lidar_tokens] = 1
        attended = biased_attention(layer.query, layer.key, value, layer.bias)[
            0, :, queries, 0
        ].mean(0)
        torch.testing.assert_close(lidar[number, 1], attended, rtol=1e-4, atol=1e-5)
    assert (lidar[:, 1] > lidar[:, 0]).any()


def test_with_scale_zero_the_bias_changes_nothing():
    scaled = build_head()
    unscaled = copy.deepcopy(scaled)
    unscaled.attention_bias_generator.bias_scale.zero_()
    queries = torch.arange(20)
    mass = observe(scaled)[0].attention_mass(queries)
    mass_unscaled = observe(unscaled)[0].attention_mass(queries)
    assert torch.equal(mass_unscaled[:, 0], mass_unscaled[:, 1])
    # the first layer gets the same inputs, whatever the scale
    torch.testing.assert_close(mass_unscaled[0, 1], mass[0, 0])
    assert (mass[0, 1] - mass[0, 0]).abs().max() > 1e-3


def test_windows_lie_around_the_reference_points():
    observation, found = observe(build_head())
    scene = make_bias_scene(scene_of(found), observation, NUM_LAYERS - 1, 0.0, max_queries=5)
    assert len(scene.scene.detections) == 5
    rows, columns = BEV_SHAPE
    x_min, y_min, _, x_max, y_max, _ = observation.pc_range
    for point, window in zip(scene.reference_points, scene.lidar.windows, strict=True):
        column = int((point[0] - x_min) / (x_max - x_min) * columns)
        row = int((point[1] - y_min) / (y_max - y_min) * rows)
        expected = [
            *(max(column - 1, 0), max(row - 1, 0)),
            *(min(column + 2, columns), min(row + 2, rows)),
        ]
        assert window.tolist() == expected
        cells = scene.lidar.values[expected[1] : expected[3], expected[0] : expected[2]]
        np.testing.assert_allclose(cells, SCALE * WEIGHTS[0], rtol=1e-6)
    covered = np.zeros(BEV_SHAPE, bool)
    for left, low, right, high in scene.lidar.windows:
        covered[low:high, left:right] = True
    assert (np.isnan(scene.lidar.values) == ~covered).all()


def test_camera_windows_lie_around_the_projected_reference_points():
    observation, found = observe(build_head())
    scene = make_bias_scene(scene_of(found), observation, 0, 0.0, max_queries=20)
    views, rows, columns = CAMERA_SHAPE
    height, width = PAD_SHAPE
    num_seen = 0
    for number, point in enumerate(scene.reference_points):
        for view in range(views):
            u, v, depth = (lidar2img()[view] @ [*point, 1.0])[:3]
            window = scene.cameras[view].windows[number].tolist()
            if depth > 0 and 0 <= u / depth < width and 0 <= v / depth < height:
                column, row = int(u / depth / width * columns), int(v / depth / height * rows)
                assert window[:2] == [max(column - 1, 0), max(row - 1, 0)]
                assert window[2:] == [min(column + 2, columns), min(row + 2, rows)]
                assert scene.cameras[view].values[row, column] == pytest.approx(SCALE * WEIGHTS[1])
                num_seen += 1
            else:
                assert window == [0, 0, 0, 0]
    assert num_seen >= 10


def test_the_best_detection_of_each_query_is_shown_best_first():
    observation, found = observe(build_head())
    threshold = float(found.scores_3d.median())
    scene = make_bias_scene(scene_of(found), observation, 0, threshold, max_queries=100)
    scores = scene.scene.detections.scores
    assert scene.num_detections == int((found.scores_3d >= threshold).sum())
    assert (np.diff(scores) <= 0).all()
    assert scores[0] == found.scores_3d.max()
    distinct = observation.detection_queries[found.scores_3d >= threshold].unique()
    assert len(scores) == len(distinct)


def test_of_overlapping_windows_the_strongest_bias_is_on_top():
    observation, found = observe(build_head())
    layer = observation.layers[0]
    cells = torch.zeros_like(layer.bias.windows.cells)
    windows = replace(layer.bias.windows, cells=cells, shapes=(Window(0), Window(0)))
    strength = torch.zeros_like(layer.bias.strength)
    first, second = observation.detection_queries.unique()[:2].tolist()
    strength[0, first], strength[0, second] = 0.5, -3.0
    bias = WindowedBias(windows, strength)
    layers = [type(layer)(layer.query, layer.key, bias)]
    changed = type(observation)(**{**vars(observation), 'layers': layers})
    scene = make_bias_scene(scene_of(found), changed, 0, 0.0, max_queries=100)
    assert scene.lidar.values[0, 0] == -3.0
    assert np.isnan(scene.lidar.values).sum() == math.prod(BEV_SHAPE) - 1


@pytest.mark.parametrize(
    ('granularity', 'scale', 'lidar', 'camera'),
    [
        ('shared', 2.0, 2.0, 2.0),
        ('modality', [2.0, 3.0], 2.0, 3.0),
        ('layer', [1.0, 4.0], 4.0, 4.0),
        ('layer_modality', [[1.0, 2.0], [3.0, 5.0]], 3.0, 5.0),
    ],
)
def test_every_granularity_gives_the_bias_of_the_layer(granularity, scale, lidar, camera):
    head = build_head(scale_granularity=granularity)
    shape = head.attention_bias_generator.bias_scale.shape
    head.attention_bias_generator.bias_scale.copy_(torch.tensor(scale).expand(shape))
    observation, found = observe(head)
    scene = make_bias_scene(scene_of(found), observation, NUM_LAYERS - 1, 0.0, max_queries=4)
    np.testing.assert_allclose(scene.bias[:, 0], lidar * WEIGHTS[0], rtol=1e-6)
    np.testing.assert_allclose(scene.bias[:, 1], camera * WEIGHTS[1], rtol=1e-6)
    assert scene.scales.shape == (NUM_LAYERS, 2)
    shown = scene.lidar.values[~np.isnan(scene.lidar.values)]
    np.testing.assert_allclose(shown, lidar * WEIGHTS[0], rtol=1e-6)
    draw_bias(scene)


@pytest.mark.parametrize('sensors', ['L', 'C', 'LC'])
@pytest.mark.parametrize('window', [3, None])
def test_missing_sensors_and_missing_windows_run_through(sensors, window):
    head = build_head()
    shape = Window(None if window is None else window // 2)
    head.attention_bias_generator.window_shapes = (shape, shape)
    observation, found = observe(head, sensors)
    scene = make_bias_scene(scene_of(found, 'C' in sensors), observation, 0, 0.0, max_queries=4)
    assert (scene.lidar is None) == ('L' not in sensors)
    assert len(scene.cameras) == (CAMERA_SHAPE[0] if 'C' in sensors else 0)
    table = mass_table(scene)
    np.testing.assert_allclose(table['lidar'] + table['camera'], 1, rtol=1e-5)
    if window is None:
        np.testing.assert_allclose(table['windows'], 1, rtol=1e-5)
    if sensors != 'LC':
        assert (table['camera' if sensors == 'L' else 'lidar'] == 0).all()
    draw_bias(scene)


def test_without_detections_there_is_a_table_of_nothing_and_a_picture():
    observation, found = observe(build_head())
    scene = make_bias_scene(scene_of(found), observation, 0, score_thr=1.1, max_queries=4)
    table = mass_table(scene)
    assert (table['queries'] == 0).all()
    assert table['lidar'].isna().all()
    draw_bias(scene)


def test_the_table_averages_over_queries():
    observation, found = observe(build_head())
    scene = make_bias_scene(scene_of(found), observation, 0, 0.0, max_queries=4)
    table = mass_table(scene)
    assert table['layer'].tolist() == [layer for layer in range(NUM_LAYERS) for _ in range(2)]
    assert table['bias'].tolist() == ['without', 'with'] * NUM_LAYERS
    np.testing.assert_allclose(table['lidar'][1], scene.mass[0, 1, :, :2].sum(-1).mean())
    np.testing.assert_allclose(table['windows'][1], scene.mass[0, 1, :, [0, 3]].sum(0).mean())


def test_detections_of_another_pass_are_refused():
    observation, found = observe(build_head())
    with pytest.raises(ValueError, match='detections'):
        make_bias_scene(scene_of(found[:3]), observation, 0, 0.0, max_queries=4)


def test_two_passes_are_refused():
    head = build_head()
    with torch.no_grad(), BiasObserver(head) as observer:
        head(*sample_inputs())
        head(*sample_inputs())
    with pytest.raises(RuntimeError, match='one forward pass at a time'):
        observer.observation()
