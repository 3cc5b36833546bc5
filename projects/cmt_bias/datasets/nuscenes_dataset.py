"""nuScenes whose bad frames are named, and may be left out of a training."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import DATASETS
from mmengine.logging import MMLogger

from .data_files import POINT_VALUES, fault_of_file, sensor_files, used_data


class BadFrameError(ValueError):
    """A frame of the dataset cannot be used: a file of it is missing, damaged or holds NaN."""


@DATASETS.register_module()
class CheckedNuScenesDataset(NuScenesDataset):
    """mmdet3d's ``NuScenesDataset``, with an error that names the file when a frame is bad.

    With ``skip_bad_frames`` a training draws another frame in place of a bad one; each is logged
    once. Not when testing: the metric needs every frame. ``skipped`` (frames,) says of each
    whether it was bad so far; bool, shared with the loading processes.
    """

    def __init__(self, *args: Any, skip_bad_frames: bool = False, **settings: Any) -> None:
        self.skip_bad_frames = skip_bad_frames
        super().__init__(*args, **settings)

    def full_init(self) -> None:
        """Load the annotations."""
        super().full_init()
        if not hasattr(self, 'skipped'):  # called again by whoever wraps the dataset
            self.skipped = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def prepare_data(self, index: int) -> dict | None:
        """The sample of one frame; None where a file is bad and another frame is to be drawn."""
        cause: Exception | None = None
        try:
            example = super().prepare_data(index)
            if _is_finite(example):
                return example
        except Exception as error:
            cause = error
        fault = self._fault(index)
        if fault is None and cause is not None:
            raise cause
        fault = fault or 'points with NaN or infinite values'
        name = f'frame {index} (token {self.get_data_info(index).get("token")})'
        if not self.skip_bad_frames or self.test_mode:
            raise BadFrameError(
                f'{name} cannot be used: {fault}. Remedy: copy or unpack the file again; '
                '`python tools/doctor.py CONFIG --depth all` lists all bad files; a training '
                'leaves such frames out with skip_bad_frames=True of the dataset'
            ) from cause
        if not self.skipped[index]:
            self.skipped[index] = True
            MMLogger.get_current_instance().warning(f'{name} is left out: {fault}')
        return None

    def _fault(self, index: int) -> str | None:
        """What is wrong with the first bad file of a frame, where files are local."""
        steps = [
            {**getattr(step, '__dict__', {}), 'type': type(step), 'transforms': ()}
            for step in self.pipeline.transforms
        ]
        settings = dict(modality=self.modality, backend_args=self.backend_args, pipeline=steps)
        used = used_data(settings)
        if not used.from_here:
            return None
        info = self.get_data_info(index)
        # Loaders of whatever name may read all of a sensor of which no loader is known.
        used = used._replace(
            points='lidar_path' in info,
            sweeps=used.sweeps if used.points else sys.maxsize,
            images=self.modality['use_camera'],
            point_values=next((s['load_dim'] for s in steps if 'load_dim' in s), POINT_VALUES),
        )
        files = sensor_files(info, used)
        faults = ((file, fault_of_file(file)) for file in files)
        return next((f"'{file.path}' {fault}" for file, fault in faults if fault), None)


@DATASETS.register_module()
class AllBoxesNuScenesDataset(CheckedNuScenesDataset):
    """``CheckedNuScenesDataset`` with the class counts of the released recipes.

    ``CBGSDataset`` draws frames by the classes they hold. In mmdet3d 1.0, with which CMT was
    trained, a box counts whether or not a LiDAR point lies in it; 1.4 counts only those with
    points. With ``use_valid_flag`` both count the valid boxes. The model is trained on the same
    boxes either way: those with points, or the valid ones.
    """

    def get_cat_ids(self, idx: int) -> set[int]:
        """Classes of all boxes of frame ``idx`` that count, -1 for those of no class."""
        return {
            self.label_mapping[instance['bbox_label_3d']]
            for instance in self.get_data_info(idx)['instances']
            if not self.use_valid_flag or instance['bbox_3d_isvalid']
        }


def _is_finite(example: dict | None) -> bool:
    """Whether the points of a sample, or of each of its augmentations, are."""
    inputs = (example or {}).get('inputs') or {}
    clouds = [part.get('points') for part in (inputs if isinstance(inputs, list) else [inputs])]
    return all(cloud is None or bool(torch.isfinite(cloud).all()) for cloud in clouds)


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """A dataset, or wrappers around it, and all that they keep as ``dataset`` or ``datasets``."""
    if dataset is not None:
        yield dataset
        for inner in (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())):
            yield from inner_datasets(inner)


def transforms_with(dataset: Any, attribute: str) -> Iterator[Any]:
    """All transforms that have an attribute, in the pipelines of a dataset, however nested."""
    steps: list[Any] = [getattr(inner, 'pipeline', ()) for inner in inner_datasets(dataset)]
    while steps:
        step = steps.pop()
        if isinstance(step, (list, tuple)):
            steps += step
            continue
        if hasattr(step, attribute):
            yield step
        steps.append(getattr(step, 'transforms', ()))


def skipped_frames(dataloader: Any) -> int:
    """The number of bad frames that a dataloader's dataset, inside any wrappers, has left out."""
    datasets = inner_datasets(getattr(dataloader, 'dataset', None))
    checked = (dataset for dataset in datasets if isinstance(dataset, CheckedNuScenesDataset))
    return sum(int(dataset.skipped.sum()) for dataset in checked)
