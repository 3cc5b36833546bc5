"""The picture of the bias: colours at the right places, and what its texts say."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cmt_bias.visualization import (
    BiasScene,
    CameraView,
    DetectionScene,
    LabelledBoxes,
    draw_bias,
    save_figure,
)
from cmt_bias.visualization.bias_scene import BiasMap

HEIGHT, WIDTH = 60, 100
FORWARD = np.array([[80.0, 50.0, 0, 0], [0, 30.0, -80.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
"""LiDAR frame to pixels of a camera at the origin that looks along +y."""
LIDAR_BIAS, CAMERA_BIAS = 1.2, -0.9
BEV, FRONT = 1, 0  # the axes, in the order in which they are made


def bias_scene(scales=((2.0, 2.0), (2.0, 2.0)), num_queries: int = 1) -> BiasScene:
    """One query 10 m ahead: LiDAR window x, y from 0 to 20 m, camera window at columns 4 to 6."""
    lidar, camera = np.full((4, 4), np.nan), np.full((6, 10), np.nan)
    lidar[2:4, 2:4], camera[2:4, 4:6] = LIDAR_BIAS, CAMERA_BIAS
    box = np.array([[0.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.0]])[:num_queries]
    scores = np.array([0.7])[:num_queries]
    scene = DetectionScene(
        ('construction_vehicle',),
        [CameraView('CAM_FRONT', np.full((HEIGHT, WIDTH, 3), 128, np.uint8), FORWARD)],
        points=np.zeros((0, 3)),
        detections=LabelledBoxes(box, np.zeros(num_queries, int), scores),
        title='scene-0001: Night, rain',
        subtitle='sample 3, token abc',
    )
    mass = np.array([0.25, 0.25, 0.375, 0.125]) * np.ones((len(scales), 2, num_queries, 1))
    return BiasScene(
        scene=scene,
        num_detections=num_queries,
        reference_points=np.array([[0.5, 10.0, 0.0]])[:num_queries],
        weights=np.array([[0.6, -0.45]])[:num_queries],
        bias=np.array([[LIDAR_BIAS, CAMERA_BIAS]])[:num_queries],
        scales=np.array(scales),
        layer=len(scales) - 1,
        mass=mass,
        lidar=BiasMap(lidar, np.array([[2, 2, 4, 4]])[:num_queries]),
        cameras=[BiasMap(camera, np.array([[4, 2, 6, 4]])[:num_queries])],
        pad_shape=(HEIGHT, WIDTH),
        pc_range=(-20.0, -20.0, -5.0, 20.0, 20.0, 3.0),
        window_sizes=(3, 3),
    )


def pixel(figure: Figure, axes: int, point: tuple[float, float]) -> np.ndarray:
    """RGB in 0..255 at a point of the axes' own coordinates."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())
    column, row = figure.axes[axes].transData.transform(point)
    return image[image.shape[0] - 1 - int(row), int(column), :3].astype(int)


def texts(figure: Figure) -> str:
    return '\n'.join(
        [text.get_text() for text in figure.texts]
        + [text.get_text() for axes in figure.axes for text in axes.findobj(match=_is_text)]
    )


def _is_text(artist) -> bool:
    return hasattr(artist, 'get_text')


def test_windows_have_the_colour_of_the_bias_of_their_sensor():
    figure = draw_bias(bias_scene())
    red, _, blue = pixel(figure, BEV, (17.0, 17.0))
    assert red > blue + 60  # on the LiDAR positive
    red, _, blue = pixel(figure, FRONT, (41.5, 38.5))
    assert blue > red + 40  # on the camera negative
    for axes, outside in ((BEV, (17.0, -7.0)), (FRONT, (70.0, 30.0))):
        red, _, blue = pixel(figure, axes, outside)
        assert abs(red - blue) < 25


def test_the_colour_scale_is_centred_at_zero():
    figure = draw_bias(bias_scene())
    (bar,) = (axes for axes in figure.axes if 'logits' in axes.get_title())
    low, high = bar.get_xlim()
    assert low == -high == pytest.approx(-1.5)
    figure = draw_bias(bias_scene(), colour_limit=4.0)
    (bar,) = (axes for axes in figure.axes if 'logits' in axes.get_title())
    assert bar.get_xlim() == pytest.approx((-4.0, 4.0))


def test_texts_name_sample_scene_layer_scale_windows_and_shares():
    written = texts(draw_bias(bias_scene()))
    for text in (
        *('scene-0001: Night, rain', 'token abc', 'layer 1 of 0 to 1', 'bias scale 2,'),
        *('LiDAR 3 \N{MULTIPLICATION SIGN} 3 cells of 10 m', 'px', '25.0%', '37.5%', '12.5%'),
        *('construction', '0.70, 10 m', '+0.60  -0.45', 'LiDAR, in windows'),
    ):
        assert text in written, text


@pytest.mark.parametrize(
    ('scales', 'text'),
    [
        (((2.0, 3.0), (2.0, 3.0)), 'bias scale: LiDAR 2; cameras 3'),
        (((1.0, 1.0), (4.0, 4.0)), 'bias scale (layer 0, 1, ...): 1, 4'),
        (((1.0, 2.0), (3.0, 2.0)), 'bias scale (layer 0, 1, ...): LiDAR 1, 3; cameras 2'),
    ],
)
def test_scales_are_written_as_far_as_they_differ(scales, text):
    assert text in texts(draw_bias(bias_scene(scales)))


def test_texts_lie_inside_the_picture_and_do_not_overlap():
    figure = draw_bias(bias_scene())
    figure.canvas.draw()
    whole = figure.bbox
    boxes = [text.get_window_extent() for text in figure.texts]
    for axes in (axes for axes in figure.axes if axes.axison):
        labels = [*axes.get_yticklabels(), axes.title, axes.xaxis.label]
        boxes += [text.get_window_extent() for text in labels if text.get_text()]
    for place, box in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, place
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, place
        assert not any(_overlap(box, other) for other in boxes[:place]), place


def _overlap(first, second) -> bool:
    return (
        first.x0 < second.x1
        and second.x0 < first.x1
        and first.y0 < second.y1
        and second.y0 < first.y1
    )


def test_without_queries_the_picture_says_so(tmp_path):
    figure = draw_bias(bias_scene(num_queries=0))
    assert 'no detection' in texts(figure)
    assert save_figure(figure, tmp_path / 'picture.png').stat().st_size > 10_000


@pytest.mark.parametrize('setting', [dict(bev_range=0.0), dict(colour_limit=-1.0)])
def test_ranges_that_cannot_be_drawn_are_refused(setting):
    with pytest.raises(ValueError, match='must be > 0'):
        draw_bias(bias_scene(), **setting)
