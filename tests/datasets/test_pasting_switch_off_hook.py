"""Pasting ends at its epoch: seen from inside real worker processes, and through real runners."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import ObjectSample
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

import cmt_bias.checkpoints.safe_loading  # noqa: F401  # lets runners resume
from cmt_bias.datasets import PastingSwitchOffHook
from cmt_bias.datasets.nuscenes_dataset import transforms_with

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


def runner_of(dataset: dict, max_epochs: int = NUM_EPOCHS, **loading: object) -> SimpleNamespace:
    """What the hook asks a runner for."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        loader = DataLoader(DATASETS.build(dataset), batch_size=2, **loading)
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    logger = MMLogger.get_current_instance()
    return SimpleNamespace(
        train_dataloader=loader, train_loop=loop, max_epochs=max_epochs, epoch=0, logger=logger
    )


def train(runner: SimpleNamespace, hook: PastingSwitchOffHook, first: int = 0) -> list[set[bool]]:
    """What the samples of each epoch from ``first`` on say, as a training loop reads them."""
    said = []
    hook.before_train(runner)
    for epoch in range(first, runner.max_epochs):
        runner.epoch = epoch
        hook.before_train_epoch(runner)
        said.append({bool(one) for batch in runner.train_dataloader for one in batch['pasted']})
    return said


@pytest.mark.parametrize('wrapping', WRAPPED)
def test_pasting_ends_below_any_nesting(wrapping):
    runner = runner_of(WRAPPED[wrapping](dict(type='PasteOne')))
    assert train(runner, PastingSwitchOffHook(2)) == [{True}, {True}, {False}, {False}]


@pytest.mark.parametrize('persistent', [False, True])
def test_worker_processes_see_the_end_and_are_replaced_once(persistent):
    dataset = WRAPPED['cbgs'](dict(type='PasteOne'))
    runner = runner_of(dataset, num_workers=2, persistent_workers=persistent)
    hook = PastingSwitchOffHook(2)
    assert train(runner, hook) == [{True}, {True}, {False}, {False}]
    iterator = runner.train_dataloader._iterator
    hook.before_train_epoch(runner)
    assert (iterator is not None) == persistent
    assert runner.train_dataloader._iterator is iterator


def test_the_transform_of_mmdet3d_is_switched_too():
    runner = runner_of(plain(dict(type='StockObjectSampleWithoutDatabase')))
    assert train(runner, PastingSwitchOffHook(2)) == [{True}, {True}, {False}, {False}]


@pytest.mark.parametrize('first', [1, 2, 3])
def test_a_run_that_begins_later_ends_pasting_as_an_uninterrupted_one(first):
    runner = runner_of(plain(dict(type='PasteOne')))
    expected = [{True}, {True}, {False}, {False}][first:]
    assert train(runner, PastingSwitchOffHook(2), first) == expected


def real_run(
    work_dir: Path, max_epochs: int, resume: bool, num_workers: int = 0, persistent: bool = False
) -> list[set[bool]]:
    """Train with a real runner, and return for each epoch the set of what its samples say."""
    model = PastingRecorder()
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=plain(dict(type='PasteOne')),
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_size=2,
            num_workers=num_workers,
            persistent_workers=persistent,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[PastingSwitchOffHook(epoch=2)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=None),
        default_scope='mmengine',
        log_level='WARNING',
        resume=resume,
        experiment_name=f'{work_dir.name}_{resume}',
    )
    runner.train()
    half = len(runner.train_dataloader)
    return [
        {value for batch in model.batches[start : start + half] for value in batch}
        for start in range(0, len(model.batches), half)
    ]


@pytest.mark.parametrize(
    ('stopped_after', 'num_workers', 'persistent'),
    [(1, 2, True), (1, 2, False), (2, 0, False), (3, 2, True)],
)
def test_a_resumed_run_of_a_real_runner_ends_pasting_as_an_uninterrupted_one(
    tmp_path, monkeypatch, stopped_after, num_workers, persistent
):
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)  # takes seconds
    expected = [{True}, {True}, {False}, {False}]
    assert real_run(tmp_path, stopped_after, resume=False) == expected[:stopped_after]
    resumed = real_run(tmp_path, NUM_EPOCHS, True, num_workers, persistent)
    assert resumed == expected[stopped_after:]


def test_switching_off_from_the_first_epoch():
    runner = runner_of(plain(dict(type='PasteOne')), max_epochs=2)
    assert train(runner, PastingSwitchOffHook(0)) == [{False}, {False}]


@pytest.mark.parametrize(
    ('step', 'epoch', 'message'),
    [
        (dict(type='PasteOne'), 9, 'all 1 epochs'),
        (dict(type='KeyMapper', transforms=[]), 0, 'nothing in the training data pastes'),
    ],
)
def test_a_hook_without_effect_warns(caplog, step, epoch, message):
    runner = runner_of(plain(step), max_epochs=1)
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        PastingSwitchOffHook(epoch).before_train(runner)
    runner.logger.removeHandler(caplog.handler)
    assert message in caplog.text


def test_until_when_objects_are_pasted_is_logged(caplog):
    runner = runner_of(plain(dict(type='PasteOne')))
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        PastingSwitchOffHook(3).before_train(runner)
    runner.logger.removeHandler(caplog.handler)
    assert 'Objects are pasted in the first 3 of 4 epochs' in caplog.text


def test_training_by_iterations_is_refused():
    runner = runner_of(plain(dict(type='PasteOne')))
    runner.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    with pytest.raises(TypeError, match='by_epoch=True'):
        PastingSwitchOffHook(epoch=1).before_train(runner)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match='-1'):
        PastingSwitchOffHook(epoch=-1)


def test_all_pasting_transforms_are_found_once():
    runner = runner_of(WRAPPED['repeat_of_concat_of_class_balanced'](dict(type='PasteOne')))
    found = list(transforms_with(runner.train_dataloader.dataset, 'disabled'))
    assert len(found) == 2 and len({id(transform) for transform in found}) == 2
