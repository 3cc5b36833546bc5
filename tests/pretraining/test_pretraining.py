"""The pretraining of the tiny recipe, and how its branches come into the detector."""

from pathlib import Path

import pytest
import torch
from mmdet3d.registry import HOOKS, MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import InstanceData

CONFIGS = Path(__file__).parents[2] / 'configs'
TINY = next((CONFIGS / 'cmt').glob('cmt-tiny_*.py'))
DENSE = next((CONFIGS / 'pretraining').glob('dense-tiny_*.py'))


@pytest.fixture(scope='module')
def batch() -> dict:
    """Two samples with points, small images and three objects, before the preprocessor."""
    generator = torch.Generator().manual_seed(0)
    samples, points = [], []
    for _ in range(2):
        boxes = torch.rand(3, 9, generator=generator) * 10 + 1
        objects = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=torch.tensor([0, 3, 8])
        )
        sample = Det3DDataSample(gt_instances_3d=objects)
        matrix = torch.tensor([[50.0, -50, 0, 0], [20, 0, -50, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        sample.set_metainfo(
            dict(lidar2img=matrix.expand(2, -1, -1).numpy(), box_type_3d=LiDARInstance3DBoxes)
        )
        samples.append(sample)
        points.append((torch.rand(500, 5, generator=generator) - 0.5) * 30)
    images = [torch.rand(2, 3, 64, 96, generator=generator) * 255 for _ in range(2)]
    return dict(inputs=dict(points=points, img=images), data_samples=samples)


@pytest.fixture(scope='module')
def pretrained() -> torch.nn.Module:
    torch.manual_seed(1)
    model = MODELS.build(Config.fromfile(DENSE).model)
    model.init_weights()
    return model


def test_pretraining_teaches_both_branches(pretrained, batch):
    pretrained.train()
    losses = pretrained.loss(**rename(pretrained.data_preprocessor(batch, training=True)))
    expected = {'task0.loss_heatmap', 'task0.loss_bbox'}
    assert set(losses) == expected | {f'camera.loss_{name}' for name in ('cls', 'depth', 'size')}
    sum(losses.values()).backward()
    untaught = [name for name, value in pretrained.named_parameters() if value.grad is None]
    assert not untaught


def test_mixed_precision_changes_no_target_of_the_cameras(pretrained, batch):
    pretrained.train()
    data = pretrained.data_preprocessor(batch, training=True)
    samples = data['data_samples']
    metas = [sample.metainfo for sample in samples]
    with torch.no_grad():
        cameras, bev = pretrained.extract_feat(data['inputs'], metas)
        cameras = [cameras[0].bfloat16()]
        head = pretrained.pts_bbox_head
        expected = head.loss(bev, [cameras[0].float()], samples)
        with torch.autocast('cpu', torch.bfloat16):
            found = head.loss(bev, cameras, samples)
    for name in ('camera.loss_cls', 'camera.loss_depth', 'camera.loss_size'):
        assert expected[name] > 0
        assert found[name] == expected[name], name


def test_every_part_in_front_of_the_decoder_is_taken_over(pretrained):
    tiny = MODELS.build(Config.fromfile(TINY).model)
    given, wanted = pretrained.state_dict(), tiny.state_dict()
    taken = {key for key in wanted if key in given and wanted[key].shape == given[key].shape}
    parts = ('img_', 'pts_voxel', 'pts_backbone', 'pts_neck', 'pts_bbox_head.shared_conv')
    assert {key for key in wanted if key.startswith(parts)} <= taken
    # and nothing of the same name that means something else
    assert not {key for key in taken if not key.startswith(parts)}


def rename(data: dict) -> dict:
    return dict(batch_inputs_dict=data['inputs'], batch_data_samples=data['data_samples'])


class RunnerOf:
    """What the hook asks a runner for."""

    def __init__(self, model: torch.nn.Module, batch: dict, iteration: int = 0) -> None:
        self.model, self.iter = model, iteration
        self.train_dataloader = [batch] * 3
        self.logger = MMLogger.get_current_instance()


def token_stds(model: torch.nn.Module, batch: dict) -> list[float]:
    """Standard deviation within channels, of the LiDAR's and the cameras' tokens."""
    model.eval()
    data = model.data_preprocessor(batch, training=False)
    metas = [sample.metainfo for sample in data['data_samples']]
    with torch.no_grad():
        img_feats, pts_feats = model.extract_feat(data['inputs'], metas)
        inputs = model.pts_bbox_head.eval().encode(pts_feats, img_feats, metas)
    number = inputs.memory.layout.num_lidar_tokens
    tokens = inputs.memory.tokens
    parts = (tokens[:, :number].flatten(0, 1), tokens[:, number:].flatten(0, 1))
    return [float(part.var(dim=0, correction=0).mean().sqrt()) for part in parts]


@pytest.mark.parametrize('iteration', [0, 5])
def test_tokens_of_both_sensors_start_at_one_scale_and_a_resumed_run_is_left_alone(
    batch, iteration
):
    torch.manual_seed(2)
    tiny = MODELS.build(Config.fromfile(TINY).model)
    tiny.init_weights()
    for parameter in tiny.img_neck.parameters():
        parameter.data *= 3
    before = token_stds(tiny, batch)
    hook = HOOKS.build(dict(type='TokenScaleHook', std=0.29))
    tiny.train()
    weight = tiny.pts_bbox_head.transformer.decoder.layers[-1].cross_attention.attn.in_proj_weight
    *looking, values = weight.detach().clone().chunk(3)
    hook.before_train(RunnerOf(tiny, batch, iteration))
    assert tiny.training
    expected = [0.29, 0.29] if iteration == 0 else before
    assert token_stds(tiny, batch) == pytest.approx(expected, rel=1e-3)
    *still_looking, scaled = weight.detach().chunk(3)
    assert all(map(torch.equal, looking, still_looking))
    torch.testing.assert_close(scaled, values * (2 if iteration == 0 else 1))


def only(batch: dict, number: int, **meta: str) -> dict:
    """A batch of one sample of another one."""
    sample = batch['data_samples'][number].clone()
    sample.set_metainfo(meta)
    inputs = {key: [values[number]] for key, values in batch['inputs'].items()}
    return dict(inputs=inputs, data_samples=[sample])


def together(*batches: dict) -> dict:
    """One batch of the samples of several."""
    inputs = {
        key: [value for batch in batches for value in batch['inputs'][key]]
        for key in ('points', 'img')
    }
    return dict(
        inputs=inputs, data_samples=[sample for b in batches for sample in b['data_samples']]
    )


@pytest.mark.parametrize(
    ('meta', 'counts'),
    [
        (dict(spoiled_sensors=''), True),
        (dict(spoiled_sensors='C'), False),
        (dict(spoiled_sensors='LC'), False),
        # as for the shipped base
        (dict(spoiled_sensors='C', masked_modality='image'), True),
    ],
)
def test_tokens_are_measured_on_samples_that_no_failure_has_spoiled(batch, meta, counts):
    torch.manual_seed(2)
    tiny = MODELS.build(Config.fromfile(TINY).model)
    tiny.init_weights()
    healthy, other = only(batch, 0, spoiled_sensors=''), only(batch, 1, **meta)
    runner = RunnerOf(tiny, batch)
    runner.train_dataloader = [other, together(healthy, other), together(other, healthy)]
    if counts:  # so that a batch more or less does not matter
        runner.train_dataloader = [together(healthy, other)]
    HOOKS.build(dict(type='TokenScaleHook', std=0.29)).before_train(runner)
    measured = together(healthy, other) if counts else healthy
    assert token_stds(tiny, measured) == pytest.approx([0.29, 0.29], rel=1e-3)


def test_where_all_samples_are_spoiled_the_weights_stay(batch):
    tiny = MODELS.build(Config.fromfile(TINY).model)
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    runner = RunnerOf(tiny, batch)
    runner.train_dataloader = [only(batch, 0, spoiled_sensors='L')]
    HOOKS.build(dict(type='TokenScaleHook', std=0.29)).before_train(runner)
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())


def test_any_normalization_of_the_neck_can_be_scaled(batch):
    torch.manual_seed(2)
    model = Config.fromfile(TINY).model
    model.img_neck.norm_cfg = dict(type='GN', num_groups=8)
    tiny = MODELS.build(model)
    tiny.init_weights()
    HOOKS.build(dict(type='TokenScaleHook', std=0.29)).before_train(RunnerOf(tiny, batch))
    assert token_stds(tiny, batch) == pytest.approx([0.29, 0.29], rel=1e-3)


@pytest.mark.parametrize('preset', ['robust', 'robust-finetune'])
def test_a_training_under_failures_begins(preset, smallest_nuscenes, tmp_path):
    (path,) = (CONFIGS / 'cmt_bias').glob(f'cmt-bias-{preset}-tiny_*.py')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(
        {
            'work_dir': str(tmp_path),
            'load_from': None,
            'train_cfg.max_epochs': 1,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.data_root': f'{smallest_nuscenes}/',
            'model.pts_bbox_head.num_query': 40,
        }
    )
    for part in ('dataloader', 'cfg', 'evaluator'):
        cfg[f'val_{part}'] = cfg[f'test_{part}'] = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter > 0


def test_frozen_statistics_stand_still_while_weights_train(batch):
    tiny = MODELS.build(Config.fromfile(TINY).model).train()
    names = tiny.frozen_statistics
    assert 'pts_bbox_head.shared_conv' in names
    buffers = {key: value.clone() for key, value in tiny.state_dict().items() if 'running' in key}
    losses = tiny.loss(**rename(tiny.data_preprocessor(batch, training=True)))
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(torch.equal(tiny.state_dict()[key], value) for key, value in buffers.items())
    assert all(parameter.requires_grad for parameter in tiny.parameters())
    assert tiny.img_backbone.conv1.weight.grad.abs().sum() > 0
