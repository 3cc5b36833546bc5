"""Picture of one sample with annotated and detected boxes, and the hook that writes such."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mmdet3d.registry import HOOKS
from mmdet3d.structures import Det3DDataSample
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmengine.visualization.utils import img_from_canvas

from ..atomic_file import save_figure
from .dataset_scenes import DatasetScenes, spread_samples
from .scene import Scene
from .scene_panels import (
    GAP,
    MARGIN,
    axes_in_inches,
    class_style,
    draw_birds_eye_view,
    new_picture,
)

# Inches.
_WIDTH = 12.1  # of the cameras
_LEGEND = 0.78
_AXIS_LABELS = 0.5


def draw_scene(scene: Scene, score_thr: float = 0.3, bev_range: float = 55.0) -> Figure:
    """Draw cameras on the left, the legend below them, and the bird's-eye view on the right.

    Detections below ``score_thr`` are left out. ``bev_range`` is half the side of the bird's-eye
    view in metres; ValueError if it is not positive.
    """
    if bev_range <= 0:
        raise ValueError(f'bev_range is half a side in metres and must be > 0, got {bev_range}')
    scene = scene.with_scores_from(score_thr)
    below = MARGIN + _LEGEND
    figure, _ = new_picture(scene, [scene.subtitle], _WIDTH, below, square_beside=True)
    width, height = figure.get_size_inches()
    side = height - 2 * MARGIN - _AXIS_LABELS
    bev = axes_in_inches(figure, width - MARGIN - side, MARGIN + _AXIS_LABELS, side, side)
    draw_birds_eye_view(bev, scene, bev_range)
    legend = axes_in_inches(figure, MARGIN, MARGIN, _WIDTH, _LEGEND - GAP)
    _draw_legend(legend, scene, score_thr)
    return figure


def _draw_legend(axes: Axes, scene: Scene, score_thr: float) -> None:
    """What lines and points mean, and each class with its numbers of detections / annotations."""
    axes.set_axis_off()
    handles = [
        Line2D([], [], color='white', marker='o', markeredgecolor='black', label='ego, front'),
        Line2D([], [], color='#9fb3b8', marker='.', linestyle='', label='LiDAR, brighter: higher'),
    ]
    found, annotated = scene.detections, scene.ground_truth
    if annotated is not None:
        colour = '#5b6675' if found is None else '#18b856'
        text = f'ground truth: {len(annotated)}'
        handles.append(Line2D([], [], color=colour, linestyle=(0, (4, 2)), label=text))
    if found is not None:
        text = f'detections, score ≥ {score_thr:g}: {len(found)}'
        handles.append(Line2D([], [], color='#5b6675', label=text))
    if found is not None and annotated is not None:
        handles.append(Line2D([], [], linestyle='', label='class: detected / annotated'))
    shown = [boxes.labels_3d for boxes in (found, annotated) if boxes is not None]
    for label in range(len(scene.class_names)):
        counts = [int((labels == label).sum()) for labels in shown]
        if any(counts):
            name, colour = class_style(label, scene.class_names)
            text = f'{name}: ' + ' / '.join(map(str, counts))
            handles.append(Line2D([], [], color=colour, linewidth=3, label=text))
    places: dict[str, Any] = dict(loc='center left', ncols=5, borderaxespad=0.0)
    axes.legend(
        handles=handles, fontsize=9, frameon=False, handlelength=2.2, columnspacing=1.6, **places
    )


@HOOKS.register_module()
@dataclass(eq=False)
class DetectionPictureHook(Hook):
    """Writes one PNG a sample: its cameras and the bird's-eye view, with all boxes.

    The pipeline's ``Pack3DDetInputs`` must pass ``lidar2img`` and ``sample_idx`` on (meta_keys),
    and should pass ``camera_names``; tokens and scene descriptions come from the dataset. Under
    distributed testing every rank writes the samples it has seen; which samples are pictured
    depends on the dataset alone.

    Args:
        out_dir: folder of the pictures, in the run's work directory unless absolute. Pictures
            of a validation during training go to a folder ``epoch_N`` in it.
        score_thr: detections below this score are not drawn.
        interval: picture every ``interval``-th sample of the dataset.
        max_samples: at most so many pictures, spread evenly over the dataset; None for all.
        bev_range: half the side of the bird's-eye view, metres.
        save: whether pictures are written to the folder.
        show: whether each picture is also shown in a window.
        wait_time: seconds for which a picture stays there, or until the space key; 0: key alone.
        sensors: whose data are drawn: 'LC', 'L' the bird's-eye view alone, 'C' images and no
            points.
    """

    out_dir: str = 'pictures'
    score_thr: float = 0.3
    interval: int = 1
    max_samples: int | None = None
    bev_range: float = 55.0
    save: bool = True
    show: bool = False
    wait_time: float = 2.0
    sensors: Literal['LC', 'L', 'C'] = 'LC'

    def __post_init__(self) -> None:
        spread_samples(0, self.interval, self.max_samples)  # refuses them before the run starts
        self.input_keys = {'LC': ('points', 'img'), 'L': ('points',), 'C': ('img',)}[self.sensors]
        self._window = Visualizer(fig_show_cfg=dict(frameon=False, figsize=(12, 4)))  # inches

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Choose the samples to picture."""
        if mode == 'train':
            return
        dataset = (runner.val_dataloader if mode == 'val' else runner.test_dataloader).dataset
        self._scenes = DatasetScenes(dataset)
        self._chosen = spread_samples(len(dataset), self.interval, self.max_samples)
        if not isinstance(dataset, BaseDataset):  # sample_idx is that of a dataset inside
            MMLogger.get_current_instance().warning(
                f'DetectionPictureHook draws nothing: the dataset is a {type(dataset).__name__}, '
                'of which it cannot tell the samples apart; validate and test on one dataset that '
                'is not wrapped'
            )
            self._chosen = []
        self._folder = Path(runner.work_dir) / self.out_dir
        if mode == 'val':
            self._folder /= f'epoch_{runner.epoch}'
        if self.save:
            MMLogger.get_current_instance().info(f'pictures of detections: {self._folder}')

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Det3DDataSample] | dict | None = None,
        mode: str = 'train',
    ) -> None:
        """Picture the chosen samples of a batch."""
        if mode == 'train':
            return
        for position, data_sample in enumerate(outputs or ()):
            index = data_sample.sample_idx
            if index not in self._chosen:
                continue
            inputs = data_batch['inputs']
            own = {key: inputs[key][position] for key in self.input_keys if key in inputs}
            scene = self._scenes.scene(index, own, data_sample)
            figure = draw_scene(scene, self.score_thr, self.bev_range)
            if self.save:
                save_figure(figure, self._folder / f'sample_{index:05d}.png')
            if self.show:
                pixels = img_from_canvas(FigureCanvasAgg(figure))
                self._window.show(pixels, 'detections', self.wait_time)
