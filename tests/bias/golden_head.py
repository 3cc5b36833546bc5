"""The golden CMT head, its inputs, and the biased head that departs from it."""

import json
from pathlib import Path

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import cmt_bias.bias  # noqa: F401  (registers the biased head)
from cmt_bias.cmt import CmtHead

GOLDEN = Path(__file__).parents[1] / 'data' / 'goldens' / 'cmt_head_single_task'
SPEC = json.loads(GOLDEN.with_suffix('.json').read_text())
NUM_LAYERS = SPEC['cfg']['transformer']['decoder']['num_layers']
with np.load(GOLDEN.with_suffix('.npz')) as file:
    ARRAYS = dict(file)


def golden_state() -> dict[str, torch.Tensor]:
    return {k[6:]: torch.from_numpy(v) for k, v in ARRAYS.items() if k.startswith('state/')}


def build_baseline(**changes) -> CmtHead:
    """The golden head, with some arguments changed."""
    head = MODELS.build(ConfigDict(SPEC['cfg'], **changes))
    head.load_state_dict(golden_state(), strict=not changes)
    return head


def build_biased(weight_generator: dict | None = None, **bias_config) -> torch.nn.Module:
    """The biased head with the golden head's weights."""
    config = ConfigDict(
        SPEC['cfg'], type='AttentionBiasCmtHead', attention_bias_config=dict(bias_config)
    )
    config.weight_generator = weight_generator or dict(type='AQRWeightGenerator')
    config.transformer = dict(config.transformer, type='AttentionBiasCmtTransformer')
    torch.manual_seed(0)
    head = MODELS.build(config)
    head.load_state_dict(golden_state(), strict=False)
    return head


def features() -> tuple[list, list]:
    return [torch.from_numpy(ARRAYS['pts_feat'])], [torch.from_numpy(ARRAYS['img_feat'])]


def ground_truth(counts: tuple[int, int] = (100, 100)) -> list[InstanceData]:
    """The golden's boxes, at most ``counts`` of them in each sample."""
    return [
        InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(
                torch.from_numpy(ARRAYS[f'gt_boxes_{index}'][:count]).reshape(-1, 9), box_dim=9
            ),
            labels_3d=torch.from_numpy(ARRAYS[f'gt_labels_{index}'][:count]),
        )
        for index, count in enumerate(counts)
    ]


def metas(instances: list | None = None) -> list[dict]:
    result = [
        dict(
            lidar2img=matrices,
            pad_shape=tuple(SPEC['pad_shape']),
            box_type_3d=LiDARInstance3DBoxes,
        )
        for matrices in ARRAYS['lidar2img']
    ]
    for meta, gt in zip(result, instances or [], strict=False):
        meta['gt_instances_3d'] = gt
    return result


def run(head: torch.nn.Module, training: bool) -> dict[str, torch.Tensor]:
    """Outputs of the first task group; in training with the same denoising noise every time."""
    head.train(training)
    torch.manual_seed(7)
    outputs = head(*features(), metas(ground_truth() if training else None))[0][0]
    return {name: value for name, value in outputs.items() if name != 'denoising'}
