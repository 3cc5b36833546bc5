"""The picture of the bias: colours at the right places, and what its texts say."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from cmt_bias.atomic_file import save_figure
from cmt_bias.metrics.attention_mass import attention_mass
from cmt_bias.ops import QueryWindows, TokenLayout, Window, WindowedBias
from cmt_bias.visualization import CameraView, ObservedBias, Scene, draw_bias

HEIGHT, WIDTH = 60, 100
FORWARD = np.array([[80.0, 50.0, 0, 0], [0, 30.0, -80.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
"""LiDAR frame to pixels of a camera at the origin that looks along +y."""
WEIGHTS = (0.6, -0.45)
BEV, FRONT = 1, 0  # the axes, in the order in which they are made


def shown(
    scales=((2.0, 2.0), (2.0, 2.0)), num_queries: int = 1
) -> tuple[Scene, ObservedBias, int]:
    """One query 10 m ahead: LiDAR window x, y from 0 to 20 m, camera window at columns 4 to 6."""
    found = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes([[0.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.0]]),
        labels_3d=torch.tensor([0]),
        scores_3d=torch.tensor([0.7]),
    )
    scene = Scene(
        ('construction_vehicle',),
        [CameraView('CAM_FRONT', np.full((HEIGHT, WIDTH, 3), 128, np.uint8), FORWARD)],
        points=np.zeros((0, 3)),
        title='scene-0001: Night, rain',
        subtitle='sample 3, token abc',
    )
    cells = torch.tensor([[[[3, 3], [2, 4]]]], dtype=torch.int32)[:, :num_queries]
    windows = QueryWindows(TokenLayout((4, 4), 1, (6, 10)), cells, (Window(1), Window(1)))
    strengths = torch.tensor([[WEIGHTS]]) * torch.tensor(scales)[:, None, None]
    biases = [WindowedBias(windows, strength[:, :num_queries]) for strength in strengths]
    query, key = torch.zeros(1, 2, num_queries, 3), torch.zeros(1, 2, 76, 3)
    masses = [attention_mass(query, key, bias)[:, 0].mean(dim=1).numpy() for bias in biases]
    observed = ObservedBias(
        detections=found[:num_queries],
        choice=f'{num_queries} shown',
        queries=torch.tensor([17])[:num_queries],
        weights=np.array([WEIGHTS])[:num_queries],
        reference_points=np.array([[0.5, 10.0, 0.0]])[:num_queries],
        scales=np.array(scales),
        biases=tuple(biases),
        mass=np.stack(masses),
        pad_shape=(HEIGHT, WIDTH),
        pc_range=(-20.0, -20.0, -5.0, 20.0, 20.0, 3.0),
    )
    return scene, observed, len(scales) - 1


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
    figure = draw_bias(*shown())
    red, _, blue = pixel(figure, BEV, (17.0, 17.0))
    assert red > blue + 60  # on the LiDAR positive
    red, _, blue = pixel(figure, FRONT, (41.5, 38.5))
    assert blue > red + 40  # on the camera negative
    for axes, outside in ((BEV, (17.0, -7.0)), (FRONT, (70.0, 30.0))):
        red, _, blue = pixel(figure, axes, outside)
        assert abs(red - blue) < 25


def test_query_whose_detection_is_of_no_known_class_is_named_other():
    scene, observed, layer = shown()
    observed.detections.labels_3d[:] = len(scene.class_names)
    figure = draw_bias(scene, observed, layer)
    assert '1  other 0.70, 10 m' in texts(figure)


def test_the_colour_scale_is_centred_at_zero():
    figure = draw_bias(*shown())
    (bar,) = (axes for axes in figure.axes if 'logits' in axes.get_title())
    low, high = bar.get_xlim()
    assert low == -high == pytest.approx(-1.2)
    figure = draw_bias(*shown(), colour_limit=4.0)
    (bar,) = (axes for axes in figure.axes if 'logits' in axes.get_title())
    assert bar.get_xlim() == pytest.approx((-4.0, 4.0))


def test_biases_beyond_the_limit_of_the_colours_are_drawn():
    figure = draw_bias(*shown(), colour_limit=0.5)
    (axes,) = (axes for axes in figure.axes if axes.get_title() == 'bias of each query')
    low, high = axes.get_xlim()
    places = np.concatenate([points.get_offsets()[:, 0] for points in axes.collections])
    assert np.abs(places).max() > 0.56
    assert ((low < places) & (places < high)).all()


def test_texts_name_sample_scene_layer_scale_windows_and_shares():
    written = texts(draw_bias(*shown()))
    for text in (
        *(
            'scene-0001: Night, rain',
            'token abc  |  1 shown',
            'layer 1 of 0 to 1',
            'bias scale 2,',
        ),
        *('LiDAR 3 \N{MULTIPLICATION SIGN} 3 cells of 10 m', 'px', '15.8%', '67.1%'),
        *('construction', '0.70, 10 m', '+0.60  -0.45', 'LiDAR, in windows'),
    ):
        assert text in written, text


@pytest.mark.parametrize(
    ('scales', 'text'),
    [
        (((2.0, 2.0), (2.0, 2.0)), 'bias scale 2, of all layers and both sensors'),
        (((1.0, 2.0), (3.0, 2.0)), 'bias scale of layer 0, 1, ...: LiDAR 1, 3; cameras 2, 2'),
    ],
)
def test_scales_that_differ_are_all_written(scales, text):
    assert text in texts(draw_bias(*shown(scales)))


def test_texts_lie_inside_the_picture_and_do_not_overlap():
    figure = draw_bias(*shown())
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
    figure = draw_bias(*shown(num_queries=0))
    assert 'no detection' in texts(figure)
    assert save_figure(figure, tmp_path / 'picture.png').stat().st_size > 10_000
