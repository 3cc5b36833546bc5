"""Pictures: what is drawn where, read back from the pixels."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from cmt_bias.atomic_file import save_figure
from cmt_bias.visualization import CameraView, Scene, draw_scene
from cmt_bias.visualization.scene_panels import (
    CLASS_COLOURS,
    GROUND_TRUTH_COLOUR,
    camera_places,
    class_style,
    draw_birds_eye_view,
    draw_camera,
)

CLASSES = ('car', 'pedestrian')
HEIGHT, WIDTH = 180, 320
SIX_CAMERAS = (
    *('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT'),
    *('CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT'),
)


def forward_view(name: str = 'CAM_FRONT') -> CameraView:
    """A black image of a camera at the origin that looks along +y of the LiDAR frame."""
    extrinsic = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    intrinsic = np.array(
        [[200.0, 0, WIDTH / 2, 0], [0, 200.0, HEIGHT / 2, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    )
    return CameraView(name, np.zeros((HEIGHT, WIDTH, 3), np.uint8), intrinsic @ extrinsic)


def boxes(*centres: tuple[float, float], label: int = 0, score: float | None = None):
    """Boxes of 2 m x 2 m x 2 m around z = 0, heading along +x."""
    rows = np.array([[x, y, -1.0, 2.0, 2.0, 2.0, 0.0] for x, y in centres]).reshape(-1, 7)
    found = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(rows), labels_3d=torch.full((len(rows),), label)
    )
    if score is not None:
        found.scores_3d = torch.full((len(rows),), score)
    return found


def camera_panel(annotated=None, found=None):
    """What draws one camera with boxes."""
    view = forward_view()
    scene = Scene(CLASSES, [view], ground_truth=annotated, detections=found)
    return lambda axes: draw_camera(axes, scene, view)


def pixels_of(draw, width: int, height: int) -> np.ndarray:
    """Draw into axes that fill a figure of that many pixels; (height, width, 3) in 0..1."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    draw(figure.add_axes((0, 0, 1, 1)))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0


def has_colour(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Where the colour is, lines blended with a dark ground included: direction in RGB counts."""
    reference = np.array(to_rgb(colour))
    strength = np.linalg.norm(pixels, axis=-1)
    cosine = (pixels @ reference) / np.maximum(strength, 1e-9) / np.linalg.norm(reference)
    return (cosine > 0.985) & (strength > 0.35)


def test_detection_colours_the_pixels_of_its_edges_in_the_camera():
    """The near face of a box from y = 9 to 11 m spans 200 / 9 pixels around the image centre."""
    found = boxes((0.0, 10.0), score=0.9)
    pixels = pixels_of(camera_panel(None, found), WIDTH, HEIGHT)
    coloured = has_colour(pixels, CLASS_COLOURS['car'])
    near = 200 / 9
    for column in (WIDTH / 2 - near, WIDTH / 2 + near):
        edge = coloured[:, int(column) - 2 : int(column) + 3].any(axis=1)
        assert edge[int(HEIGHT / 2 - near) + 1 : int(HEIGHT / 2 + near)].all()
    below = coloured[int(HEIGHT / 2 + near) + 4 :]
    assert not below.any()


def test_box_behind_the_camera_leaves_the_image_black():
    found = boxes((0.0, -10.0), score=0.9)
    pixels = pixels_of(camera_panel(None, found), WIDTH, HEIGHT)
    assert (pixels[40:] == 0).all()


def test_ground_truth_and_detections_have_different_colours():
    annotated, found = boxes((-2.0, 10.0)), boxes((2.0, 10.0), label=1, score=0.9)
    pixels = pixels_of(camera_panel(annotated, found), WIDTH, HEIGHT)
    green = has_colour(pixels, GROUND_TRUTH_COLOUR)
    blue = has_colour(pixels, CLASS_COLOURS['pedestrian'])
    assert green[:, : WIDTH // 2].any() and not green[:, WIDTH // 2 :].any()
    assert blue[:, WIDTH // 2 :].any() and not blue[:, : WIDTH // 2].any()


def test_annotations_alone_are_drawn_in_the_colours_of_their_classes():
    annotated = boxes((0.0, 10.0), label=1)
    pixels = pixels_of(camera_panel(annotated, None), WIDTH, HEIGHT)
    assert has_colour(pixels, CLASS_COLOURS['pedestrian']).any()
    assert not has_colour(pixels, GROUND_TRUTH_COLOUR).any()


def test_birds_eye_view_draws_a_box_at_its_place():
    """1 m is 4 pixels; the box around (20, -10) ends at x = 19 and 21, y = -9 and -11."""
    found = boxes((20.0, -10.0), score=0.9)
    scene = Scene(CLASSES, [], points=np.zeros((0, 3)), detections=found)
    pixels = pixels_of(lambda axes: draw_birds_eye_view(axes, scene, 50.0), 400, 400)
    rows, columns = np.nonzero(has_colour(pixels, CLASS_COLOURS['car']))
    x, y = (columns + 0.5) / 4 - 50, 50 - (rows + 0.5) / 4
    assert abs(x.min() - 19) < 0.5 and abs(x.max() - 21) < 0.5
    assert abs(y.min() + 11) < 0.5 and abs(y.max() + 9) < 0.5


def test_birds_eye_view_shows_points_at_their_place():
    scene = Scene(CLASSES, [], points=np.array([[-30.0, 40.0, 1.5], [300.0, 0.0, 0.0]]))
    empty = Scene(CLASSES, [], points=np.zeros((0, 3)))
    with_points, without = (
        pixels_of(lambda axes, s=s: draw_birds_eye_view(axes, s, 50.0), 400, 400)
        for s in (scene, empty)
    )
    rows, columns = np.nonzero(np.abs(with_points - without).max(axis=-1) > 0.05)
    assert len(rows) > 0
    assert np.abs((columns + 0.5) / 4 - 50 + 30).max() < 0.8
    assert np.abs(50 - (rows + 0.5) / 4 - 40).max() < 0.8


def test_cameras_stand_as_on_the_vehicle():
    assert dict(zip(SIX_CAMERAS, camera_places(SIX_CAMERAS), strict=True)) == {
        'CAM_FRONT_LEFT': (0, 0),
        'CAM_FRONT': (0, 1),
        'CAM_FRONT_RIGHT': (0, 2),
        'CAM_BACK_LEFT': (1, 0),
        'CAM_BACK': (1, 1),
        'CAM_BACK_RIGHT': (1, 2),
    }
    assert camera_places(['CAM_BACK']) == [(0, 0)]
    figure = draw_scene(crowded_scene())
    front, right, left, back, *_ = (axes.bbox for axes in figure.axes)
    assert left.x1 < front.x0 < front.x1 < right.x0
    assert back.y1 < front.y0 and back.x0 == front.x0


def test_some_of_the_cameras_stand_as_on_the_vehicle_too():
    names = [f'CAM_{place}' for place in ('FRONT_LEFT', 'FRONT', 'BACK_LEFT', 'BACK')]
    assert camera_places(names) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    figure = draw_scene(Scene(CLASSES, [forward_view('CAM_BACK'), forward_view('CAM_FRONT')]))
    back, front, *_ = (axes.bbox for axes in figure.axes)
    assert back.y1 < front.y0 and back.x0 == front.x0


def test_cameras_of_other_names_come_three_in_a_row():
    for names in ([f'camera {number}' for number in range(5)], ['CAM_BACK'] * 5):
        assert camera_places(names) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_class_colours_go_by_name_and_differ():
    assert class_style(0, ('pedestrian',)) == ('pedestrian', CLASS_COLOURS['pedestrian'])
    assert class_style(1, ('car', 'cable_car'))[1] in CLASS_COLOURS.values()
    assert len({*CLASS_COLOURS.values(), GROUND_TRUTH_COLOUR}) == len(CLASS_COLOURS) + 1


@pytest.mark.parametrize('label', [-1, len(CLASSES)])
def test_detection_of_no_known_class_is_drawn_in_no_class_s_colour_and_named_other(label):
    assert class_style(label, CLASSES)[1] not in CLASS_COLOURS.values()
    view, found = forward_view(), boxes((0.0, 10.0), label=label, score=0.9)
    figure = draw_scene(Scene(CLASSES, [view], np.zeros((0, 3)), detections=found))
    assert 'other 0.90' in [text.get_text() for text in figure.axes[0].texts]


def crowded_scene() -> Scene:
    generator = np.random.default_rng(0)
    places = np.stack([generator.uniform(-8, 8, 40), generator.uniform(8, 50, 40)], axis=1)
    annotated = boxes(*map(tuple, places))
    found = boxes(*map(tuple, places), score=1.0)
    found.scores_3d = torch.from_numpy(generator.uniform(0.3, 1, 40))
    return Scene(
        CLASSES,
        [forward_view(name) for name in SIX_CAMERAS],
        generator.normal(0, 20, (500, 5)),
        annotated,
        found,
        'a scene with a rather long description, ' * 8,
        'sample 3',
    )


def test_names_of_boxes_do_not_cover_each_other_and_stay_in_their_image():
    figure = draw_scene(crowded_scene())
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes[:6]:
        extents = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(extents) > 3
        for number, extent in enumerate(extents):
            assert not any(extent.overlaps(other) for other in extents[:number])
            assert axes.bbox.x0 - 1 <= extent.x0 and extent.x1 <= axes.bbox.x1 + 1


def test_parts_of_the_picture_lie_inside_it_and_apart():
    figure = draw_scene(crowded_scene())
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    extents = [axes.get_tightbbox(renderer) for axes in figure.axes]
    extents += [text.get_window_extent(renderer) for text in figure.texts]
    for number, extent in enumerate(extents):
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1
        assert extent.y0 >= 0 and extent.y1 <= figure.bbox.y1
        assert not any(extent.overlaps(other) for other in extents[:number])


@pytest.mark.parametrize('missing', ['cameras', 'points', 'boxes', 'everything'])
def test_sample_that_lacks_something_is_drawn(missing):
    scene = crowded_scene()
    everything = missing == 'everything'
    no_boxes = everything or missing == 'boxes'
    scene = Scene(
        CLASSES,
        [] if everything or missing == 'cameras' else scene.cameras,
        None if everything or missing == 'points' else scene.points,
        boxes() if no_boxes else scene.ground_truth,
        boxes(score=0.5) if no_boxes else scene.detections,
    )
    figure = draw_scene(scene)
    figure.canvas.draw()
    assert len(figure.axes) == len(scene.cameras) + 2 + (not scene.cameras)


def test_saved_picture_is_a_png_of_the_figure_size(tmp_path):
    figure = draw_scene(crowded_scene())
    path = save_figure(figure, tmp_path / 'new folder' / 'picture.png')
    content = path.read_bytes()
    assert content[:8] == b'\x89PNG\r\n\x1a\n'
    width, height = figure.get_size_inches() * figure.dpi
    assert int.from_bytes(content[16:20], 'big') == pytest.approx(width, abs=1)
    assert int.from_bytes(content[20:24], 'big') == pytest.approx(height, abs=1)


def test_failed_write_leaves_the_former_picture_and_nothing_else(tmp_path):
    path = tmp_path / 'picture.png'
    path.write_bytes(b'former')
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0, 0, r'$\unknowncommand$')
    with pytest.raises(ValueError, match='unknowncommand'):
        save_figure(figure, path)
    assert path.read_bytes() == b'former'
    assert list(tmp_path.iterdir()) == [path]


def test_range_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match='bev_range'):
        draw_scene(crowded_scene(), bev_range=0.0)
