"""Pasting ends at its epoch: seen from inside real worker processes, through real runners."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import ObjectSample
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import Runner
from torch import nn

import cmt_bias.checkpoints.safe_loading  # noqa: F401  # lets runners resume
from cmt_bias.datasets.pasting_switch_off_hook import PastingSwitchOffHook, transforms_with

NUM_EPOCHS = 4


@TRANSFORMS.register_module()
class PasteOne(BaseTransform):
    """Stands for a transform that pastes: says whether it did."""

    def __init__(self) -> None:
        self.disabled = False

    def transform(self, results: dict) -> dict:
        results['pasted'] = not self.disabled
        return results


@TRANSFORMS.register_module()
class StockObjectSampleWithoutDatabase(ObjectSample):
    """mmdet3d's own class, of which the hook must know nothing, kept from reading a database."""

    def __init__(self) -> None:
        self.disabled = False

    def transform(self, results: dict) -> dict:
        results['pasted'] = not self.disabled
        return results


@DATASETS.register_module()
class NumberedSamples(BaseDataset):
    METAINFO = dict(classes=('a', 'b'))

    def load_data_list(self) -> list[dict]:
        return [dict(number=number) for number in range(4)]

    def get_cat_ids(self, idx: int) -> set[int]:
        return {idx % 2}


class PastingRecorder(BaseModel):
    """Notes for each epoch whether its samples were pasted into."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches: list[list[bool]] = []

    def forward(self, pasted: torch.Tensor, number: torch.Tensor, mode: str, **_: object):
        self.batches.append([bool(value) for value in pasted])
        return dict(loss=self.weight.sum())


def plain(step: dict) -> dict:
    return dict(type='NumberedSamples', pipeline=[step])


WRAPPED = {
    'plain': plain,
    'repeat': lambda step: dict(type='RepeatDataset', times=1, dataset=plain(step)),
    'repeat_of_concat_of_class_balanced': lambda step: dict(
        type='RepeatDataset',
        times=1,
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                plain(step),
                dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=plain(step)),
            ],
        ),
    ),
    'cbgs': lambda step: dict(type='mmdet3d.CBGSDataset', dataset=plain(step)),
    'nested_transform': lambda step: plain(
        dict(
            type='RandomApply',
            transforms=[dict(type='RandomChoice', transforms=[[step]])],
            prob=1.0,
        )
    ),
}


def train(
    work_dir: Path,
    dataset: dict,
    switch_off_epoch: int = 2,
    num_workers: int = 0,
    persistent: bool = False,
    max_epochs: int = NUM_EPOCHS,
    resume: bool = False,
) -> tuple[list[set[bool]], Runner]:
    """Train, and return for each epoch that was run the set of what its samples say."""
    model = PastingRecorder()
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=copy.deepcopy(dataset),
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_size=2,
            num_workers=num_workers,
            persistent_workers=persistent,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[PastingSwitchOffHook(epoch=switch_off_epoch)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=None),
        default_scope='mmengine',
        log_level='WARNING',
        resume=resume,
        experiment_name=f'{work_dir.name}_{resume}_{max_epochs}',
    )
    runner.train()
    per_epoch = len(runner.train_dataloader)
    epochs = [
        {value for batch in model.batches[start : start + per_epoch] for value in batch}
        for start in range(0, len(model.batches), per_epoch)
    ]
    return epochs, runner


@pytest.mark.parametrize('wrapping', WRAPPED)
def test_pasting_ends_below_any_nesting(tmp_path, wrapping):
    epochs, _ = train(tmp_path, WRAPPED[wrapping](dict(type='PasteOne')))
    assert epochs == [{True}, {True}, {False}, {False}]


@pytest.mark.parametrize('persistent', [False, True])
def test_worker_processes_see_the_end(tmp_path, persistent):
    epochs, runner = train(
        tmp_path, WRAPPED['cbgs'](dict(type='PasteOne')), num_workers=2, persistent=persistent
    )
    assert epochs == [{True}, {True}, {False}, {False}]
    assert runner.train_dataloader.persistent_workers is persistent


def test_persistent_workers_are_replaced_once_and_then_kept(tmp_path):
    _, runner = train(tmp_path, plain(dict(type='PasteOne')), num_workers=1, persistent=True)
    iterator = runner.train_dataloader._iterator
    hook = next(h for h in runner.hooks if isinstance(h, PastingSwitchOffHook))
    hook.before_train_epoch(runner)
    assert iterator is not None and runner.train_dataloader._iterator is iterator


def test_the_transform_of_mmdet3d_is_switched_too(tmp_path):
    epochs, _ = train(tmp_path, plain(dict(type='StockObjectSampleWithoutDatabase')))
    assert epochs == [{True}, {True}, {False}, {False}]


@pytest.mark.parametrize(
    ('stopped_after', 'num_workers', 'persistent'), [(1, 2, True), (2, 0, False), (3, 2, True)]
)
def test_a_resumed_run_ends_pasting_as_an_uninterrupted_one(
    tmp_path, stopped_after, num_workers, persistent
):
    dataset = plain(dict(type='PasteOne'))
    train(tmp_path, dataset, max_epochs=stopped_after)
    epochs, _ = train(
        tmp_path, dataset, num_workers=num_workers, persistent=persistent, resume=True
    )
    assert epochs == [{True}, {True}, {False}, {False}][stopped_after:]


def test_switching_off_from_the_first_epoch(tmp_path):
    epochs, _ = train(tmp_path, plain(dict(type='PasteOne')), switch_off_epoch=0, max_epochs=2)
    assert epochs == [{False}, {False}]


@pytest.mark.parametrize(
    ('step', 'epoch', 'message'),
    [
        (dict(type='PasteOne'), 9, 'all 1 epochs'),
        (dict(type='KeyMapper', transforms=[]), 0, 'nothing in the training data pastes'),
    ],
)
def test_a_hook_without_effect_warns(tmp_path, caplog, step, epoch, message):
    dataset = plain(step)
    with caplog.at_level(logging.WARNING):
        runner = train_nothing(tmp_path, dataset, epoch)
        runner.logger.addHandler(caplog.handler)
        next(h for h in runner.hooks if isinstance(h, PastingSwitchOffHook)).before_train(runner)
        runner.logger.removeHandler(caplog.handler)
    assert message in caplog.text


def train_nothing(work_dir: Path, dataset: dict, epoch: int, by_epoch: bool = True) -> Runner:
    """A runner whose training loop is built but not run."""
    loop = dict(by_epoch=True, max_epochs=1) if by_epoch else dict(by_epoch=False, max_iters=1)
    runner = Runner(
        model=PastingRecorder(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dataset, sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=0
        ),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[PastingSwitchOffHook(epoch=epoch)],
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}_not_run',
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    return runner


def test_training_by_iterations_is_refused(tmp_path):
    runner = train_nothing(tmp_path, plain(dict(type='PasteOne')), 1, by_epoch=False)
    with pytest.raises(TypeError, match='by_epoch=True'):
        PastingSwitchOffHook(epoch=1).before_train(runner)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match='-1'):
        PastingSwitchOffHook(epoch=-1)


def test_all_pasting_transforms_are_found_once(tmp_path):
    dataset = DATASETS.build(WRAPPED['repeat_of_concat_of_class_balanced'](dict(type='PasteOne')))
    found = list(transforms_with(dataset, 'disabled'))
    assert len(found) == 2 and len({id(transform) for transform in found}) == 2
