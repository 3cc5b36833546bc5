"""The detector on the tiny recipe: losses, boxes, missing sensors and mixed precision."""

from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cmt'
TINY = next(CONFIGS.glob('cmt-tiny_*.py'))
NUM_CAMERAS = 2
IMAGE_SHAPE = (64, 96)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def detector() -> torch.nn.Module:
    init_default_scope('mmdet3d')
    voxel_size = [1.6, 1.6, 8.0]
    cfg = Config.fromfile(TINY).model
    cfg.data_preprocessor.voxel_layer.voxel_size = voxel_size
    cfg.pts_voxel_encoder.voxel_size = voxel_size
    cfg.pts_middle_encoder.output_shape = [64, 64]
    cfg.train_cfg.pts.grid_size = cfg.test_cfg.pts.grid_size = [64, 64, 1]
    cfg.pts_bbox_head.num_query = 40
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def camera_matrices() -> torch.Tensor:
    """Two cameras that look along +x and -x, LiDAR frame to pixels."""
    intrinsics = torch.eye(4)
    intrinsics[:2, :3] = torch.tensor([[60.0, 0, 48], [0, 60, 32]])
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    backward = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    return torch.stack((intrinsics @ forward, intrinsics @ backward))


def make_sample(num_boxes: int) -> Det3DDataSample:
    boxes = torch.zeros(num_boxes, 9)
    boxes[:, :3] = torch.rand(num_boxes, 3) * torch.tensor([60.0, 60, 2]) - 30
    boxes[:, 3:6] = torch.rand(num_boxes, 3) * 4 + 0.5
    boxes[:, 6:] = torch.randn(num_boxes, 3)
    sample = Det3DDataSample(
        metainfo=dict(lidar2img=camera_matrices().numpy(), box_type_3d=LiDARInstance3DBoxes)
    )
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9),
        labels_3d=torch.randint(0, 10, (num_boxes,)),
    )
    return sample


def make_batch(
    detector: torch.nn.Module,
    num_boxes: tuple[int, ...] = (3, 2),
    num_points: tuple[int, ...] = (400, 300),
    sensors: tuple[str, ...] = ('points', 'img'),
) -> dict:
    inputs = {}
    if 'points' in sensors:
        scale = torch.tensor([80.0, 80, 4, 1, 0])
        inputs['points'] = [(torch.rand(count, 5) - 0.5) * scale for count in num_points]
    if 'img' in sensors:
        inputs['img'] = [
            torch.randint(0, 256, (NUM_CAMERAS, 3, *IMAGE_SHAPE)).float() for _ in num_boxes
        ]
    samples = [make_sample(count) for count in num_boxes]
    return detector.data_preprocessor(dict(inputs=inputs, data_samples=samples), training=True)


def total(losses: dict) -> torch.Tensor:
    return sum(losses.values())


def test_training_gives_finite_losses_and_gradients_everywhere(detector):
    detector.train()
    losses = detector(**make_batch(detector), mode='loss')
    layers = detector.pts_bbox_head.transformer.decoder.num_layers
    assert len(losses) == 4 * layers
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    total(losses).backward()
    without = [name for name, p in detector.named_parameters() if p.grad is None]
    assert without == []


def test_prediction_gives_scored_boxes_in_descending_order(detector):
    detector.eval()
    with torch.no_grad():
        results = detector(**make_batch(detector), mode='predict')
    for sample in results:
        predicted = sample.pred_instances_3d
        assert len(predicted) > 0
        assert predicted.bboxes_3d.tensor.shape == (len(predicted), 9)
        assert (predicted.scores_3d.diff() <= 0).all()
        assert predicted.labels_3d.max() < 10


def test_tensor_mode_gives_raw_outputs(detector):
    detector.eval()
    with torch.no_grad():
        (task,) = detector(**make_batch(detector), mode='tensor')
    head = detector.pts_bbox_head
    layers = head.transformer.decoder.num_layers
    assert task[0]['cls_logits'].shape == (layers, 2, head.num_query, 10)


def test_batch_without_any_box_trains_on_background_alone(detector):
    detector.train()
    losses = detector(**make_batch(detector, num_boxes=(0, 0)), mode='loss')
    for name, loss in losses.items():
        expects_loss = name.endswith('loss_cls') and 'dn_' not in name
        assert (loss > 0) == expects_loss, name
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)


def test_one_sample_without_a_box_trains(detector):
    detector.train()
    losses = detector(**make_batch(detector, num_boxes=(0, 4)), mode='loss')
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_batch_prediction_equals_each_sample_alone(detector):
    detector.eval()
    batch = make_batch(detector)
    with torch.no_grad():
        (together,) = detector(**batch, mode='tensor')
        for index in range(2):
            coors = batch['inputs']['voxels']['coors']
            chosen = coors[:, 0] == index
            voxels = {key: value[chosen] for key, value in batch['inputs']['voxels'].items()}
            voxels['coors'] = voxels['coors'].clone()
            voxels['coors'][:, 0] = 0
            single = dict(voxels=voxels, imgs=batch['inputs']['imgs'][index : index + 1])
            (alone,) = detector(single, [batch['data_samples'][index]], mode='tensor')
            for name, values in alone[0].items():
                torch.testing.assert_close(
                    values[:, 0], together[0][name][:, index], rtol=1e-4, atol=1e-4
                )


@pytest.mark.parametrize('training', [True, False])
def test_empty_point_cloud_becomes_a_map_of_zeros(detector, training):
    detector.train(training)
    batch = make_batch(detector, num_points=(0, 0))
    seen = []
    detector.pts_backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    detector(**batch, mode='loss' if training else 'predict')
    assert seen[0].shape[0] == 2
    assert seen[0].abs().max() == 0


def test_one_empty_point_cloud_leaves_the_other_sample_as_it_was(detector):
    detector.eval()
    torch.manual_seed(1)
    full = make_batch(detector, num_points=(400, 300))
    empty = {**full['inputs'], 'voxels': dict(full['inputs']['voxels'])}
    chosen = full['inputs']['voxels']['coors'][:, 0] == 0
    empty['voxels'] = {key: value[chosen] for key, value in full['inputs']['voxels'].items()}
    with torch.no_grad():
        (expected,) = detector(full['inputs'], full['data_samples'], mode='tensor')
        (actual,) = detector(empty, full['data_samples'], mode='tensor')
    for name, values in expected[0].items():
        torch.testing.assert_close(actual[0][name][:, 0], values[:, 0])


def test_zeroed_points_of_a_single_sample_train(detector):
    detector.train()
    batch = make_batch(detector, num_boxes=(2,), num_points=(1,))
    losses = detector(**batch, mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_black_images_run_through(detector):
    detector.train()
    batch = make_batch(detector)
    batch['inputs']['imgs'].zero_()
    assert torch.isfinite(total(detector(**batch, mode='loss')))


@pytest.mark.parametrize('sensors', [('points',), ('img',)])
def test_missing_modality_runs_through(detector, sensors):
    batch = make_batch(detector, sensors=sensors)
    detector.train()
    assert torch.isfinite(total(detector(**batch, mode='loss')))
    detector.eval()
    with torch.no_grad():
        results = detector(**batch, mode='predict')
    assert all(len(sample.pred_instances_3d) for sample in results)


class AutocastRecorder:
    """Whether autocast was on in each part that ran, recomputation in the backward included."""

    def __init__(self, detector: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, list[bool]] = defaultdict(list)
        self.running: str | None = None
        for name, module in detector.named_modules():
            if name and not any(True for _ in module.children()):
                module.register_forward_pre_hook(partial(self._record, name))
            if name.endswith(('attentions.0', 'attentions.1')):
                module.register_forward_pre_hook(partial(self._enter, f'{name}.softmax'))
        plain = torch.nn.functional.scaled_dot_product_attention

        def recorded(*args, **kwargs):
            self._record(self.running)
            return plain(*args, **kwargs)

        monkeypatch.setattr('torch.nn.functional.scaled_dot_product_attention', recorded)

    def _record(self, name: str, *_: object) -> None:
        self.states[name].append(torch.is_autocast_enabled('cpu'))

    def _enter(self, name: str, *_: object) -> None:
        self.running = name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_on_in_the_parts_that_the_released_code_runs_in_half(
    detector, dtype, monkeypatch
):
    """Image branch, SECONDFPN, softmax(QK')V of the cross-attention; off in all else."""
    detector.train()
    for layer in detector.pts_bbox_head.transformer.decoder.layers:
        layer.with_cp = True
    for stage in ('layer1', 'layer2', 'layer3', 'layer4'):
        for block in getattr(detector.img_backbone, stage):
            block.with_cp = True
    recorder = AutocastRecorder(detector, monkeypatch)
    batch = make_batch(detector)
    batch['inputs']['imgs'].requires_grad_()  # or the first block is not recomputed
    with torch.autocast('cpu', dtype=dtype):
        losses = detector(**batch, mode='loss')
    forward = {name: len(states) for name, states in recorder.states.items()}
    total(losses).backward()
    recomputed = {n for n, states in recorder.states.items() if len(states) > forward[n]}

    in_half = {name for name, states in recorder.states.items() if all(states)}
    in_float32 = {name for name, states in recorder.states.items() if not any(states)}
    assert in_half | in_float32 == set(recorder.states), 'one state for each part, both ways'
    expected = ('img_backbone.', 'img_neck.', 'pts_neck.')
    assert in_half == {
        name
        for name in recorder.states
        if name.startswith(expected) or name.endswith('attentions.1.softmax')
    }
    for part in ('pfn_layers', 'pts_backbone', 'shared_conv', 'ffns', 'task_heads'):
        assert any(part in name for name in in_float32), part
    assert any(name.endswith('attentions.0.softmax') for name in recomputed & in_float32)
    assert any(name.endswith('attentions.1.softmax') for name in recomputed & in_half)
    assert any(name.startswith('img_backbone.layer4') for name in recomputed)
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_losses_stay_near_float32(detector, dtype):
    detector.eval()
    batch = make_batch(detector)
    with torch.no_grad():
        (expected,) = detector(**batch, mode='tensor')
        with torch.autocast('cpu', dtype=dtype):
            (actual,) = detector(**batch, mode='tensor')
    tolerance = 40 * torch.finfo(dtype).eps
    for name, values in expected[0].items():
        assert (actual[0][name] - values).norm() <= tolerance * values.norm(), name


def test_the_sparse_encoder_runs_on_one_thread(detector):
    """On CPUs spconv loses sums with more; all other parts keep their threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    threads = {}
    for name in ('img_backbone', 'pts_middle_encoder', 'pts_backbone'):
        detector.get_submodule(name).register_forward_hook(
            lambda *_, name=name: threads.update({name: torch.get_num_threads()})
        )
    try:
        with torch.no_grad():
            detector.eval()(**make_batch(detector), mode='tensor')
    finally:
        torch.set_num_threads(before)
    assert threads == dict(img_backbone=2, pts_middle_encoder=1, pts_backbone=2)


def test_activation_checkpointing_changes_neither_losses_nor_gradients(detector):
    detector.train()
    batch = make_batch(detector)
    results = []
    for with_cp in (False, True):
        for layer in detector.pts_bbox_head.transformer.decoder.layers:
            layer.with_cp = with_cp
        detector.zero_grad()
        torch.manual_seed(3)
        loss = total(detector(**batch, mode='loss'))
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in detector.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain)
