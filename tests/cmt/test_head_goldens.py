"""The heads against numbers that the authors' released heads produced.

`tests/data/goldens/README.md` says how those numbers were made.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import cmt_bias.cmt  # noqa: F401  (registers the heads)

OWN = Path(__file__).parents[1] / 'data' / 'goldens'
SHARED = Path(__file__).parents[3] / 'shared' / 'goldens'
GOLDENS = {
    'shared': SHARED / 'cmt_head_single_task',
    'single_task': OWN / 'cmt_head_single_task',
    'multi_task': OWN / 'cmt_head_multi_task',
    'lidar': OWN / 'cmt_lidar_head',
    'image': OWN / 'cmt_image_head',
}
# Names of gradients in the shared file that are not names of parameters.
GRADIENT_ALIASES = {
    'reference_points': 'reference_points.weight',
    'cross_attn_in_proj': 'transformer.decoder.layers.0.attentions.1.attn.in_proj_weight',
}
RTOL = 1e-4
# Part of an array's largest value below which differences are rounding.
NOISE = 1e-5


@dataclass(frozen=True)
class Golden:
    spec: dict
    arrays: dict[str, np.ndarray]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        start = prefix + '/'
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}

    def features(self, name: str) -> list[torch.Tensor] | None:
        return [torch.from_numpy(self.arrays[name])] if name in self.arrays else None

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(value) for name, value in self.group('state').items()}

    @property
    def gt_instances(self) -> list[InstanceData]:
        return [
            InstanceData(
                bboxes_3d=LiDARInstance3DBoxes(
                    torch.from_numpy(self.arrays[f'gt_boxes_{index}']), box_dim=9
                ),
                labels_3d=torch.from_numpy(self.arrays[f'gt_labels_{index}']),
            )
            for index in range(len(self.arrays['lidar2img']))
        ]

    @property
    def img_metas(self) -> list[dict]:
        return [
            dict(
                lidar2img=matrices,
                pad_shape=tuple(self.spec['pad_shape']),
                box_type_3d=LiDARInstance3DBoxes,
            )
            for matrices in self.arrays['lidar2img']
        ]

    @property
    def data_samples(self) -> list[Det3DDataSample]:
        samples = []
        for meta, instances in zip(self.img_metas, self.gt_instances, strict=True):
            sample = Det3DDataSample(metainfo=meta)
            sample.gt_instances_3d = instances
            samples.append(sample)
        return samples


@pytest.fixture(params=GOLDENS, scope='module')
def golden(request) -> Golden:
    path = GOLDENS[request.param]
    if not path.with_suffix('.npz').exists():
        pytest.skip(f'no {path}.npz: the shared files lie beside the repository, not in it')
    with np.load(path.with_suffix('.npz')) as arrays:
        return Golden(json.loads(path.with_suffix('.json').read_text()), dict(arrays))


@pytest.fixture
def head(golden):
    head = MODELS.build(ConfigDict(golden.spec['cfg']))
    head.load_state_dict(golden.state_dict, strict=True)
    return head


def undo_saved_training_step(head, golden: Golden) -> None:
    """Take the running statistics back to those the evaluation outputs were made with.

    The shared file was saved after its training forward, which moved the statistics of the shared
    convolution by one step of momentum 0.1; its evaluation outputs were made before.
    """
    norm = head.shared_conv.bn
    steps = int(norm.num_batches_tracked)
    if steps == 0:
        return
    assert steps == 1 and norm.momentum == 0.1
    with torch.no_grad():
        features = head.shared_conv.conv(golden.features('pts_feat')[0])
        norm.running_mean -= 0.1 * features.mean(dim=(0, 2, 3))
        norm.running_var -= 0.1 * features.var(dim=(0, 2, 3), unbiased=True)
        norm.running_mean /= 0.9
        norm.running_var /= 0.9


@pytest.fixture
def evaluated(head, golden):
    if head.shared_conv is not None:
        undo_saved_training_step(head, golden)
    head.eval()
    with torch.no_grad():
        return head(golden.features('pts_feat'), golden.features('img_feat'), golden.img_metas)


@pytest.fixture
def trained(head, golden):
    """Losses and, in the head's parameters, the gradients of their sum."""
    head.train()
    torch.manual_seed(golden.spec['train_seed'])
    metas = [
        dict(meta, gt_instances_3d=instances)
        for meta, instances in zip(golden.img_metas, golden.gt_instances, strict=True)
    ]
    outputs = head(golden.features('pts_feat'), golden.features('img_feat'), metas)
    losses = head.loss_by_feat(outputs, golden.gt_instances)
    sum(losses.values()).backward()
    return head, losses


def assert_equal_numbers(actual: torch.Tensor, expected: np.ndarray, name: str) -> None:
    largest = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=RTOL, atol=NOISE * largest, err_msg=name
    )


def test_outputs_equal_the_released_heads(evaluated, golden):
    expected = golden.group('eval')
    assert len(evaluated) == len({name.split('/')[0] for name in expected})
    for name, values in expected.items():
        task, branch = name.split('/')
        assert_equal_numbers(evaluated[int(task.removeprefix('task'))][0][branch], values, name)


def test_decoded_boxes_equal_the_released_heads(head, evaluated, golden):
    results = head.predict_by_feat(evaluated, golden.img_metas)
    for index, result in enumerate(results):
        expected = golden.group(f'decode/{index}')
        np.testing.assert_array_equal(result.labels_3d.numpy(), expected['labels'])
        assert_equal_numbers(result.scores_3d, expected['scores'], 'scores')
        for column in range(9):
            assert_equal_numbers(
                result.bboxes_3d.tensor[:, column],
                expected['boxes'][:, column],
                f'sample {index}, column {column} of the boxes',
            )


def test_losses_equal_the_released_heads(trained, golden):
    _, losses = trained
    expected = golden.group('loss')
    assert set(losses) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name].item(), value, rtol=RTOL, err_msg=name)


def test_gradient_norms_equal_the_released_heads(trained, golden):
    head, _ = trained
    parameters = dict(head.named_parameters())
    expected = golden.group('grad_norm')
    if not set(expected) & set(GRADIENT_ALIASES):  # our own files hold every parameter's
        assert set(expected) == set(parameters)
    noise = 1e-6 * float(max(expected.values()))
    for name, norm in expected.items():
        gradient = parameters[GRADIENT_ALIASES.get(name, name)].grad
        actual = 0.0 if gradient is None else gradient.norm().item()
        np.testing.assert_allclose(actual, norm, rtol=RTOL, atol=noise, err_msg=name)


def test_loss_of_data_samples_equals_loss_of_features(head, golden):
    head.train()
    torch.manual_seed(golden.spec['train_seed'])
    losses = head.loss(
        golden.features('pts_feat'), golden.features('img_feat'), golden.data_samples
    )
    for name, value in golden.group('loss').items():
        np.testing.assert_allclose(losses[name].item(), value, rtol=RTOL, err_msg=name)


def test_prediction_of_data_samples_equals_decoded_features(head, evaluated, golden):
    expected = head.predict_by_feat(evaluated, golden.img_metas)
    with torch.no_grad():
        actual = head.predict(
            golden.features('pts_feat'), golden.features('img_feat'), golden.data_samples
        )
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.bboxes_3d.tensor, theirs.bboxes_3d.tensor)
        torch.testing.assert_close(ours.scores_3d, theirs.scores_3d)
        assert torch.equal(ours.labels_3d, theirs.labels_3d)
