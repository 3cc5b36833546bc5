"""What it means that a sensor is missing, in training and in evaluation.

The definition, for all of this project (it is the released one):

- The cameras are missing: every pixel of every image is zero *before* normalisation, a black
  picture. ``lidar2img`` and the other matrices stay.
- The LiDAR is missing: every point has x = y = z = intensity = time = 0; their number stays. They
  all fall into the one voxel (or pillar) at the sensor; in training the mask comes before
  :class:`GlobalRotScaleTransAll`, so that is wherever the sensor has been moved to.

The model also takes a cloud without points and a pipeline without an input, but the published
numbers for missing sensors, and ``tools/test.py --modality``, are about zeroed ones.
"""

import copy
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints

from ..config_type import type_name
from ..spoiled_parts import add_spoiled

_INPUTS = {'image': ('img', 'C'), 'points': ('points', 'L')}  # key, sensor
_MASKED = {'LC': None, 'L': 'image', 'C': 'points'}  # where only these sensors see anything


def black(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images (H, W, 3) of cameras that are missing."""
    return [np.zeros_like(image) for image in images]


def zeroed(points: BasePoints) -> BasePoints:
    """The points (N, D) of a LiDAR that is missing."""
    return points.new_point(points.tensor.new_zeros(points.shape))


@TRANSFORMS.register_module()
class ModalMask3D(BaseTransform):
    """Zero the images or the points, at random or always the same.

    Mode 'train' draws for each sample, with the probability of either input, never both; 'test'
    always masks ``mask_modal``, 'image' or 'points'. A ValueError is raised for arguments without
    a meaning, a KeyError if the sample lacks the input that is to be masked.

    Added keys: ``masked_modality``, 'image', 'points' or None, and in a masked sample those of
    :mod:`cmt_bias.spoiled_parts`.
    """

    def __init__(
        self,
        mode: str = 'test',
        mask_modal: str = 'image',
        image_drop_prob: float = 0.25,
        points_drop_prob: float = 0.25,
    ) -> None:
        if mode not in ('train', 'test') or mask_modal not in _INPUTS:
            raise ValueError(
                f"ModalMask3D: mode={mode!r} must be 'train' or 'test', and "
                f"mask_modal={mask_modal!r} 'image' or 'points'"
            )
        if min(image_drop_prob, points_drop_prob) < 0 or image_drop_prob + points_drop_prob > 1:
            raise ValueError(
                f'ModalMask3D: image_drop_prob={image_drop_prob} and points_drop_prob='
                f'{points_drop_prob} must not be negative, nor more than 1 together'
            )
        self.mode = mode
        self.mask_modal = mask_modal
        self.image_drop_prob = image_drop_prob
        self.points_drop_prob = points_drop_prob

    def transform(self, results: dict) -> dict:
        """Zero at most one input of the sample."""
        masked: str | None = self.mask_modal
        if self.mode == 'train':
            draw, both = np.random.rand(), self.image_drop_prob + self.points_drop_prob
            masked = 'image' if draw < self.image_drop_prob else 'points' if draw < both else None
        results['masked_modality'] = masked
        if masked is None:
            return results
        key, sensor = _INPUTS[masked]
        if key not in results:
            raise KeyError(f"ModalMask3D: no '{key}' to mask; a pipeline of one sensor needs none")
        results[key] = black(results[key]) if masked == 'image' else zeroed(results[key])
        add_spoiled(results, sensor)
        return results


def with_modality(pipeline: Sequence[dict], modality: str) -> list[dict]:
    """A copy of a test pipeline (its configs) in which only some sensors see: 'LC', 'L' or 'C'.

    A :class:`ModalMask3D` in front of the packing zeroes the other. A ValueError is raised for an
    unknown ``modality``, and for a pipeline that does not pack the inputs.
    """
    if modality not in _MASKED:
        raise ValueError(f'modality must be one of {sorted(_MASKED)}, not {modality!r}')
    steps = copy.deepcopy(list(pipeline))
    if modality == 'LC':
        return steps
    mask = dict(type='ModalMask3D', mode='test', mask_modal=_MASKED[modality])
    for index, step in enumerate(steps):
        if type_name(step) == 'Pack3DDetInputs':
            return [*steps[:index], mask, *steps[index:]]
        for stage, alternatives in enumerate(step.get('transforms', ())):
            # TestTimeAug has stages, each a list of alternatives.
            if any(type_name(inner) == 'Pack3DDetInputs' for inner in alternatives):
                step['transforms'].insert(stage, [mask])
                return steps
    raise ValueError('the test pipeline has no Pack3DDetInputs, before which to mask a sensor')
