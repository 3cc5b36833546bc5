"""The picture hook in a real test run of mmengine."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from mmdet3d.models import Det3DDataPreprocessor
from mmdet3d.registry import METRICS, MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.visualization import visualizer

from cmt_bias.visualization import DetectionPictureHook
from cmt_bias.visualization.scene_panels import CLASS_COLOURS

from .tiny_dataset import NUM_SAMPLES, dataset_config


@MODELS.register_module()
class CarAheadDetector(BaseModel):
    """Finds in every sample one car, 10 m ahead, with score 0.8."""

    def __init__(self) -> None:
        super().__init__(Det3DDataPreprocessor(mean=[100.0] * 3, std=[50.0] * 3))
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        for sample in data_samples:
            sample.pred_instances_3d = InstanceData(
                bboxes_3d=LiDARInstance3DBoxes([[0, 10, -0.75, 4, 2, 1.5, np.pi / 2, 0, 0]], 9),
                scores_3d=torch.tensor([0.8]),
                labels_3d=torch.tensor([0]),
            )
        return data_samples


@METRICS.register_module()
class SampleCount(BaseMetric):
    """Counts samples."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {'count': len(results)}


def run_test(folder, dataset=None, **hook_settings) -> Runner:
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset or dataset_config(folder),
    )
    runner = Runner(
        model=dict(type='CarAheadDetector'),
        work_dir=str(folder / 'work'),
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=dict(type='SampleCount'),
        custom_hooks=[dict(type='DetectionPictureHook', **hook_settings)],
        default_scope='mmdet3d',
        experiment_name=folder.parent.name,
    )
    assert runner.test() == {'count': NUM_SAMPLES}
    return runner


def num_car_pixels(path) -> int:
    pixels = imread(path)[..., :3]
    orange = np.array([int(CLASS_COLOURS['car'][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(pixels - orange).max(axis=-1) < 0.06).sum())


def test_test_run_writes_a_picture_of_each_sample_under_the_work_dir(tiny_folder):
    run_test(tiny_folder, out_dir='pictures')
    written = sorted((tiny_folder / 'work' / 'pictures').iterdir())
    assert [path.name for path in written] == [f'sample_0000{n}.png' for n in range(NUM_SAMPLES)]
    assert num_car_pixels(written[0]) > 100


def test_absolute_folder_interval_and_threshold_are_obeyed(tiny_folder, tmp_path):
    run_test(
        tiny_folder,
        out_dir=str(tmp_path / 'elsewhere'),
        interval=2,
        score_thr=0.9,
    )
    written = sorted((tmp_path / 'elsewhere').iterdir())
    assert [path.name for path in written] == ['sample_00000.png', 'sample_00002.png']
    legend_only = num_car_pixels(written[0])
    run_test(tiny_folder, out_dir=str(tmp_path / 'drawn'), max_samples=1, score_thr=0.3)
    assert num_car_pixels(tmp_path / 'drawn' / 'sample_00000.png') > legend_only + 100


def test_samples_of_a_wrapped_dataset_are_not_mixed_up_but_left_out(tiny_folder, monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *_: said.append(text))
    wrapped = dict(type='ConcatDataset', datasets=[dataset_config(tiny_folder)])
    run_test(tiny_folder, wrapped, out_dir='of_wrapped')
    assert not (tiny_folder / 'work' / 'of_wrapped').exists()
    assert any('the dataset is a ConcatDataset' in text for text in said)


def test_pictures_of_one_sensor_are_shown_in_a_window_one_after_the_other(
    tiny_folder, monkeypatch
):
    seen = []

    def wait(figure, timeout: float, continue_key: str) -> None:
        seen.append((timeout, np.asarray(figure.canvas.buffer_rgba()).copy()))

    monkeypatch.setattr(visualizer, 'wait_continue', wait)
    shown = {}
    for sensors in ('LC', 'L', 'C'):
        number = NUM_SAMPLES if sensors == 'LC' else 1
        run_test(
            tiny_folder,
            save=False,
            show=True,
            wait_time=0.25,
            sensors=sensors,
            max_samples=number,
        )
        assert [seconds for seconds, _ in seen] == [0.25] * number
        shown[sensors] = seen[0][1]
        seen.clear()
    assert not (tiny_folder / 'work' / 'pictures').exists()
    # The blue image of the camera in front is in the picture unless only the LiDAR is.
    blue = {
        sensors: int(((pixels[..., 2] > 200) & (pixels[..., :2] < 60).all(-1)).sum())
        for sensors, pixels in shown.items()
    }
    assert blue['L'] == 0 < min(blue['LC'], blue['C'])


def test_bad_settings_are_refused_before_the_run_starts():
    with pytest.raises(ValueError, match='interval'):
        DetectionPictureHook(interval=0)
