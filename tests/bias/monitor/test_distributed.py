"""BiasScaleHook on two processes: one history, with the gradient of the whole batch."""

import csv
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import multiprocessing

from cmt_bias.bias.monitor.hook import BiasScaleHook

from ..biased_model import BiasedModel, make_runner


class GradientOfEachProcess(Hook):
    """Keeps the gradient of this process's own half of the batch, from a pass of its own."""

    def __init__(self) -> None:
        self.gradients: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        model = runner.model.module
        scale = model.pts_bbox_head.attention_bias_generator.bias_scale
        loss = model(**data_batch, mode='loss')['loss']
        self.gradients.append(torch.autograd.grad(loss, scale)[0].item())


def train_on_two(rank: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine reads it, though nothing here uses a GPU
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{work_dir / "meeting"}', rank=rank, world_size=2
    )
    spy = GradientOfEachProcess()
    runner = make_runner(
        work_dir,
        BiasedModel(),
        [BiasScaleHook(interval=2), spy],
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
    )
    runner.train()
    torch.save(spy.gradients, work_dir / f'gradients_{rank}.pth')
    torch.distributed.destroy_process_group()


def test_one_history_with_the_mean_of_the_gradients(tmp_path):
    # forked, so that they need not import everything again
    multiprocessing.start_processes(train_on_two, (tmp_path,), nprocs=2, start_method='fork')

    with (tmp_path / 'bias_scale.csv').open() as file:
        rows = list(csv.DictReader(file))
    first, second = (torch.load(tmp_path / f'gradients_{rank}.pth') for rank in (0, 1))
    assert [int(row['iteration']) for row in rows] == [0, 2, 4, 6, 8, 10]  # 2 epochs of 5
    assert first != second
    for row in rows[1:]:
        index = int(row['iteration']) - 1
        mean = (first[index] + second[index]) / 2
        assert float(row['bias_scale_grad/shared']) == pytest.approx(mean, rel=1e-5)
    assert (tmp_path / 'bias_scale_curve.png').is_file()
    assert not list(tmp_path.glob('bias_scale.*.csv'))
