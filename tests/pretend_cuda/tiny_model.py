"""A training step and an inference of the tiny model with a bias, on CPU and pretended device.

``python -m tests.pretend_cuda.tiny_model HOOKS_LIBRARY`` prints a report of each way as JSON.
"""

import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.pretend_cuda import device

# isort: split
import torch
import torch.distributed as dist
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import cmt_bias  # noqa: F401  (registers the model)
from cmt_bias.ops import operator, triton_attention
from cmt_bias.ops.geometry import AttentionInputs
from cmt_bias.ops.triton_attention import Launch, Tiles

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cmt_bias'
IMAGE = (64, 96)
ONE_PROGRAM = Launch(Tiles(128, 64, 4, 1), Tiles(128, 64, 4, 1), programs=(1, 1))


def build_model() -> nn.Module:
    """The tiny recipe on a coarse grid, without dropout, with trust that is not zero."""
    config = Config.fromfile(next(CONFIGS.glob('cmt-bias-learnable-tiny*.py'))).model
    voxel_size = [1.6, 1.6, 8.0]
    config.data_preprocessor.voxel_layer.voxel_size = voxel_size
    config.pts_voxel_encoder.voxel_size = voxel_size
    config.pts_middle_encoder.output_shape = [64, 64]
    config.train_cfg.pts.grid_size = config.test_cfg.pts.grid_size = [64, 64, 1]
    config.pts_bbox_head.num_query = 30
    config.pop('frozen_modules', None)
    # wide: logits as large as the tiny recipe's narrow attention has would want float32
    config.init_cfg = dict(type='LocalAttention', spread_reference_points=True)
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    model.grid_mask = None
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, 'attn_drop'):
            module.attn_drop = 0.0
    nn.init.normal_(model.pts_bbox_head.weight_generator.weight_logits.weight)
    # the weights of a run's first batch are checked, which waits for the device once
    model.pts_bbox_head._has_run = True
    return model


def cameras() -> Any:
    """Projections of a camera that looks forward and of one that looks backward."""
    pixels = torch.eye(4)
    pixels[:2, :3] = torch.tensor([[60.0, 0, 48], [0, 60, 32]])
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = forward * torch.tensor([-1.0, -1, 1, 1])
    return torch.stack((pixels @ forward, pixels @ turned)).numpy()


def samples(counts: tuple[int, ...], move: Callable[[Tensor], Tensor]) -> list[Det3DDataSample]:
    """Samples with so many boxes each; the last box of a sample has no velocity."""
    made = []
    for count in counts:
        boxes = torch.rand(count, 9) * torch.tensor([50.0, 50, 2, 4, 4, 4, 3, 1, 1])
        boxes[:, :2] -= 25
        boxes[:, 3:6] += 0.5
        boxes[-1, 7:] = torch.nan
        meta = dict(
            lidar2img=cameras(), box_type_3d=LiDARInstance3DBoxes, pad_shape=IMAGE,
            spoiled_sensors='',
        )  # fmt: skip
        sample = Det3DDataSample(metainfo=meta)
        boxes_3d = LiDARInstance3DBoxes(boxes, box_dim=9)
        boxes_3d.tensor = move(boxes)
        labels = move(torch.randint(0, 10, (count,)))
        sample.gt_instances_3d = InstanceData(bboxes_3d=boxes_3d, labels_3d=labels)
        made.append(sample)
    return made


def inputs(move: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Voxels and images of two samples."""
    count = 120
    cells = torch.randint(0, 64, (count, 2))
    sample = torch.arange(count) * 2 // count
    coordinates = torch.stack((sample, torch.zeros(count).long(), *cells.unbind(1)), dim=1).int()
    voxels = (torch.rand(count, 8, 5) - 0.5) * torch.tensor([80.0, 80, 4, 1, 0])
    lidar = dict(
        voxels=move(voxels),
        num_points=move(torch.randint(1, 9, (count,))),
        coors=move(coordinates),
    )
    return dict(voxels=lidar, imgs=move(torch.randn(2, 2, 3, *IMAGE)))


class CountsGradients(nn.Module):
    """Wraps a model as DDP does: each parameter must get its gradient, once in a step."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.received = dict.fromkeys(dict(module.named_parameters()), 0)
        for name, parameter in module.named_parameters():
            parameter.register_post_accumulate_grad_hook(partial(self._receive, name))

    def _receive(self, name: str, parameter: Tensor) -> None:
        self.received[name] += 1
        dist.all_reduce(parameter.grad.div_(dist.get_world_size()))

    def forward(self, *args: Any) -> dict[str, Tensor]:
        for buffer in self.module.buffers():  # as DDP does with broadcast_buffers
            buffer.copy_(buffer.clone())
        return self.module.loss(*args)


def run(
    move: Callable[[Tensor], Tensor], amp: torch.dtype | None, wrapped: bool
) -> dict[str, Any]:
    """One training step and one inference; numbers on the CPU."""
    model = build_model()
    kind = 'cpu' if move is Tensor.clone else 'cuda'
    if kind == 'cuda':
        device.move_module(model)
    autocast = partial(torch.autocast, kind, dtype=amp or torch.float16, enabled=amp is not None)
    model.train()
    torch.manual_seed(1)
    data, labelled = inputs(move), samples((3, 2), move)
    device.RECORD.clear()
    trained = CountsGradients(model) if wrapped else SimpleNamespace(received={})
    with autocast():
        losses = (trained if wrapped else model.loss)(data, labelled)
        total = sum(losses.values())
    total.backward()
    parameters = list(model.parameters())
    grads = {
        name: None if p.grad is None else device.to_cpu(p.grad).clone()
        for name, p in model.named_parameters()
    }
    nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 35, foreach=False)
    torch.optim.AdamW(parameters, lr=1e-4, foreach=False).step()
    report = dict(
        losses={name: device.to_cpu(loss).item() for name, loss in losses.items()},
        grads=grads,
        received=trained.received,
        training_syncs=dict(device.RECORD.syncs),
        faults=dict(device.RECORD.faults),
    )
    model.eval()
    torch.manual_seed(2)
    data, unlabelled = inputs(move), samples((1, 1), move)
    device.RECORD.clear()
    with torch.no_grad(), autocast():
        found = model.predict(data, unlabelled)
    scores = [device.to_cpu(sample.pred_instances_3d.scores_3d) for sample in found]
    boxes = [device.to_cpu(sample.pred_instances_3d.bboxes_3d.tensor) for sample in found]
    report.update(
        scores=torch.cat(scores),
        boxes=torch.cat(boxes),
        inference_syncs=dict(device.RECORD.syncs),
        faults={**report['faults'], **device.RECORD.faults},
    )
    return report


def distance(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Largest errors of the losses, of the gradients as a whole and of the scores."""
    losses = [
        abs(loss - expected['losses'][name]) / max(1, abs(expected['losses'][name]))
        for name, loss in found['losses'].items()
    ]
    grads = [
        torch.cat([grad.flatten() for grad in report['grads'].values() if grad is not None])
        for report in (found, expected)
    ]
    return dict(
        losses=max(losses),
        grads=((grads[0] - grads[1]).norm() / grads[1].norm()).item(),
        scores=(found['scores'] - expected['scores']).abs().max().item(),
    )


def launch_in_interpreter(function: Callable, launched_on: set[int]) -> Callable:
    """A function of the Triton backend on the CPU's tensors, which Triton's interpreter takes.

    The current devices, which Triton would take, are put into ``launched_on``.
    """

    def launch(*args: Any) -> Any:
        launched_on.add(torch.cuda.current_device())
        inputs, *tensors = args
        inputs = AttentionInputs(*map(device.to_cpu, inputs))
        result = function(inputs, *map(device.to_cpu, tensors), launch=ONE_PROGRAM)
        return tuple(t if t is None else device.PretendTensor(t) for t in result)

    return launch


def main() -> None:
    """Print the report."""
    device.install()
    logging.disable(logging.INFO)
    init_default_scope('mmdet3d')
    dist.init_process_group('fake', rank=0, world_size=2, store=FakeStore())
    dist.all_reduce = lambda tensor, *_, **__: tensor.mul_(2)  # the other one has the same
    expected = run(Tensor.clone, None, wrapped=False)
    device.PretendDevice.in_python = {
        torch.ops.cmt_bias.windowed_attention.default: operator._forward,
        torch.ops.cmt_bias.windowed_attention_backward.default: operator._backward,
    }
    ways = {
        'float32': (None, False),
        'autocast': (torch.float16, False),
        'wrapped': (None, True),
        'triton': (None, False),
    }
    reports, launched_on = {}, set()
    for name, (amp, wrapped) in ways.items():
        if name == 'triton':
            torch.cuda.get_device_capability = lambda *_: (8, 0)
            for part in ('attend', 'gradients'):
                launch = launch_in_interpreter(getattr(triton_attention, part), launched_on)
                setattr(triton_attention, part, launch)
        with device.PretendDevice():
            found = run(device.to_pretend, amp, wrapped)
        missing = [name for name, grad in found['grads'].items() if grad is None]
        reports[name] = dict(
            distance=distance(found, expected),
            without_gradient=missing,
            received=found['received'],
            backends=sorted(operator._logged_choices),
            launched_on=sorted(launched_on),
            **{key: found[key] for key in ('training_syncs', 'inference_syncs', 'faults')},
        )
    sys.stdout.write(json.dumps(reports))


if __name__ == '__main__':
    main()
