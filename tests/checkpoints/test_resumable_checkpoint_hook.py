"""What the hook keeps of a checkpoint between trainings of one process."""

from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from cmt_bias.checkpoints import ResumableCheckpointHook


class OneLayer(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs: list[torch.Tensor], mode: str) -> dict[str, torch.Tensor]:
        return {'loss': self.layer(torch.stack(inputs)).square().sum()}


class Samples(list):
    """With numpy's numbers and texts in what it says of itself, as info files have them."""

    metainfo = {'categories': {np.str_('car'): np.int64(0)}, 'colours': (np.arange(3), 'red')}


def build_runner(work_dir: Path, name: str, **settings: object) -> Runner:
    return Runner(
        OneLayer(),
        str(work_dir),
        experiment_name=f'{work_dir.name}_{name}',
        train_dataloader=dict(
            dataset=Samples([dict(inputs=torch.ones(4))] * 2),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='ResumableCheckpointHook', interval=1)),
        default_scope='mmdet3d',
        **settings,
    )


def test_plain_torch_reads_a_checkpoint_whatever_the_data_say_of_themselves(tmp_path):
    build_runner(tmp_path, 'only').train()
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    expected = {'categories': {'car': 0}, 'colours': ([0, 1, 2], 'red')}
    for part in (checkpoint['meta'], checkpoint['message_hub']['runtime_info']):
        assert part.get('dataset_meta', expected) == expected
    assert checkpoint['meta']['dataset_meta'] == expected


def test_random_state_of_a_checkpoint_at_the_start_is_not_kept_for_a_later_training(tmp_path):
    build_runner(tmp_path, 'first').train()
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    checkpoint['meta'].update(epoch=0, iter=0)
    torch.save(checkpoint, tmp_path / 'start.pth')
    start = str(tmp_path / 'start.pth')
    runner = build_runner(tmp_path, 'second', load_from=start, resume=True)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hook.before_train(runner)
    assert torch.equal(torch.rand(3), expected)
