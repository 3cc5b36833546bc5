"""The start-of-training summary, in real runs of mmengine's Runner with a small model."""

import io
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import CosineAnnealingLR, OptimWrapper, OptimWrapperDict
from mmengine.registry import LOOPS, PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, Dataset, IterableDataset, SequentialSampler

from cmt_bias.checkpoints import CheckpointError
from cmt_bias.learning_rate_peaks import LearningRatePeak
from cmt_bias.runs.run_summary_hook import (
    RunSummaryHook,
    describe_parameters,
    describe_scaling,
    schedule_warnings,
    show_package_log,
)


class Pairs(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(inputs=torch.full((3,), float(index)))


class TwoPartModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 5)
        self.head = nn.Linear(5, 1, bias=False)
        self.head.attention_backend = 'the backend of this test'

    def forward(self, inputs: list[torch.Tensor], mode: str) -> dict[str, torch.Tensor]:
        return dict(loss=self.head(self.backbone(torch.stack(inputs))).square().mean())


class FreezeBackbone(Hook):
    """Freezes as late as a hook of normal priority can."""

    def before_train(self, runner: Runner) -> None:
        runner.model.backbone.requires_grad_(False)


def log_of_a_run(
    work_dir: Path,
    accumulative_counts: int = 1,
    lr: float = 1e-3,
    epochs: int = 1,
    eta_min_ratio: float = 4,
    more_schedulers: tuple | list = (),
    **settings,
) -> str:
    """What epochs of six iterations write to the log file."""
    cosine = dict(type='CosineAnnealingLR', eta_min_ratio=eta_min_ratio, T_max=6, end=6)
    cosine['by_epoch'] = False
    name = f'{work_dir.name}_{epochs}'
    defaults = dict(
        model=TwoPartModel(),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=Pairs(), sampler=dict(type='DefaultSampler')
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=lr),
            paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
            accumulative_counts=accumulative_counts,
        ),
        param_scheduler=[cosine, *more_schedulers],
        custom_hooks=[RunSummaryHook()],
    )
    Runner(work_dir=str(work_dir), experiment_name=name, **{**defaults, **settings}).train()
    return max(work_dir.rglob('*.log'), key=lambda log: log.stat().st_mtime_ns).read_text()


def rates(log: str) -> list[tuple[float, float]]:
    """Base and peak rate of the head and the backbone, read from the summary."""
    found = re.findall(r'(\S+) -> (\S+) \(x \S+\): \w+ \(', log)
    return [(float(base), float(peak)) for base, peak in found]


RESUMABLE = dict(default_hooks=dict(checkpoint=dict(type='ResumableCheckpointHook', interval=1)))


def test_resumed_run_shows_the_schedule_that_it_trains_with_and_warns_of_another(tmp_path):
    first = log_of_a_run(tmp_path, **RESUMABLE)
    settings = dict(lr=5e-3, eta_min_ratio=2, epochs=2, resume=True, **RESUMABLE)
    resumed = log_of_a_run(tmp_path, **settings)
    assert 'resumed epoch: 1' in resumed
    # Two runs within a second share a log file.
    assert rates(resumed)[-2:] == rates(first) == [(1e-3, 3.79904e-3), (1e-4, 3.79904e-4)]
    assert 'goes on with the schedule of its checkpoint, not with that of the config' in resumed
    assert 'what the checkpoint says holds' in resumed
    names = 'param_scheduler\\[0\\].eta_min_ratio: 2 in the config, 4 in the checkpoint'
    assert re.search(names, resumed)
    assert '.initial_lr: 0.005 in the config, 0.001 in the checkpoint' in resumed
    assert '12 in all' in resumed


def test_resume_with_the_same_schedule_has_nothing_to_warn_of(tmp_path):
    momentum = dict(type='CosineAnnealingMomentum', T_max=4, eta_min=0.5, end=4)
    log_of_a_run(tmp_path, more_schedulers=[momentum], **RESUMABLE)
    resumed = log_of_a_run(
        tmp_path, epochs=2, resume=True, more_schedulers=[momentum], **RESUMABLE
    )
    assert 'resumed epoch: 1' in resumed
    assert 'schedule of its checkpoint' not in resumed


def test_run_with_fewer_schedulers_is_not_resumed(tmp_path):
    log_of_a_run(tmp_path, **RESUMABLE)
    constant = dict(type='ConstantLR', factor=1.0)
    with pytest.raises(CheckpointError, match=r'has 2 schedulers, the checkpoint\'s had 1'):
        log_of_a_run(tmp_path, epochs=2, resume=True, more_schedulers=[constant], **RESUMABLE)


def warnings_of(action: Callable[[], None]) -> str:
    """What an action writes to mmengine's log."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        action()
    finally:
        logger.removeHandler(handler)
    return lines.getvalue()


def parameter_table(log: str) -> dict[str, tuple[int, int]]:
    """Trained and frozen parameters of each part, read from the summary."""
    _, _, table = log.partition('parameters of')
    rows = re.findall(r'^ +(\S+) +([\d,]+) +([\d,]+)$', table, flags=re.MULTILINE)
    return {
        name: (int(trained.replace(',', '')), int(frozen.replace(',', '')))
        for name, trained, frozen in rows
    }


def test_summary_states_batch_rates_parameters_and_backend(tmp_path):
    log = log_of_a_run(tmp_path)

    assert 'effective batch 2 = 1 processes x batch 2 x 1 accumulated steps; 6 iterations' in log
    # Cosine rise over six steps to four times the base rate: 1 + 3 (1 - cos(5 pi / 6)) / 2
    peaks = re.findall(r'(\S+) -> (\S+) \(x (\S+)\): (\w+) \(', log)
    assert [(base, part) for base, _, _, part in peaks] == [
        ('0.001', 'head'),
        ('0.0001', 'backbone'),
    ]
    assert [float(gain) for _, _, gain, _ in peaks] == pytest.approx([3.79904] * 2, rel=1e-5)
    assert 'unnamed' not in log
    assert parameter_table(log) == {'all': (25, 0), 'backbone': (20, 0), 'head': (5, 0)}
    assert 'attention: Linear x 1 runs on the backend of this test' in log
    assert 'lr_mult does not hold' not in log


def test_accumulated_steps_count_in_the_effective_batch(tmp_path):
    log = log_of_a_run(
        tmp_path, accumulative_counts=3, auto_scale_lr=dict(enable=True, base_batch_size=8)
    )
    assert 'effective batch 6 = 1 processes x batch 2 x 3 accumulated steps' in log
    assert 'scaled by 0.25 to 0.00025' in log  # mmengine leaves them out


def test_frozen_parameters_are_counted_after_all_hooks_have_run(tmp_path):
    log = log_of_a_run(tmp_path, default_hooks=dict(freeze=FreezeBackbone()))

    assert parameter_table(log) == {'all': (5, 20), 'backbone': (0, 20), 'head': (5, 0)}


def test_parameters_of_a_head_are_counted_part_by_part():
    model = nn.ModuleDict(dict(neck=nn.Linear(1, 1)))
    model['pts_bbox_head'] = nn.ModuleDict(
        dict(a=nn.Linear(2, 999), b=nn.Linear(3, 1), c=nn.ReLU())
    )
    model['pts_bbox_head']['b'].requires_grad_(False)
    assert parameter_table('\n'.join(describe_parameters(model))) == {
        'all': (2999, 4),
        'neck': (2, 0),
        'pts_bbox_head': (2997, 4),
        'pts_bbox_head.a': (2997, 0),
        'pts_bbox_head.b': (0, 4),
    }


def test_scaled_base_rate_is_stated_and_is_what_the_schedule_starts_from(tmp_path):
    log = log_of_a_run(tmp_path, auto_scale_lr=dict(enable=True, base_batch_size=8))

    assert 'base learning rate 0.001 for batch 8, scaled by 0.25 to 0.00025' in log
    assert re.search(r'0\.00025 -> 0\.00094976 \(x 3\.79904\): head', log)


def test_unscaled_rate_for_another_batch_names_the_option_that_scales():
    unscaled = dict(enable=False, base_batch_size=16)
    line = describe_scaling(2e-4, unscaled, batch=4, accumulated=1)
    assert line.endswith('not scaled (this batch of 4: --auto-scale-lr would make it 5e-05)')


def test_scaling_leaves_accumulated_steps_out_as_mmengine_does():
    scaled = dict(enable=True, base_batch_size=16)
    line = describe_scaling(1e-3, scaled, batch=8, accumulated=4)
    assert 'scaled by 0.5 to 0.0005' in line


def test_to_scale_is_not_advised_where_accumulated_steps_make_up_the_batch():
    unscaled = dict(enable=False, base_batch_size=16)
    line = describe_scaling(1e-3, unscaled, batch=4, accumulated=4)
    assert line.endswith('for batch 16, not scaled')


def test_lost_lr_mult_is_warned_about_with_the_remedy():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = CosineAnnealingLR(optimizer, T_max=4, eta_min=8e-3, end=4)
    peaks = [LearningRatePeak(1e-3, 8e-3, ('a',)), LearningRatePeak(1e-4, 8e-3, ('b',))]

    (lost,) = schedule_warnings(peaks, [scheduler], scaled=False)
    assert 'by different factors, 8 to 80' in lost
    assert 'CosineAnnealingLR has an absolute eta_min' in lost
    assert 'Use eta_min_ratio' in lost
    assert any(
        'auto_scale_lr' in text for text in schedule_warnings(peaks, [scheduler], scaled=True)
    )


def test_groups_that_rise_by_the_same_factor_raise_no_warning():
    peaks = [LearningRatePeak(1e-3, 8e-3, ('a',)), LearningRatePeak(1e-4, 8e-4, ('b',))]
    assert schedule_warnings(peaks, [], scaled=True) == []


class MeanLoss(BaseMetric):
    """Something that a schedule can wait for."""

    default_prefix = ''

    def process(self, data_batch, data_samples):
        self.results.append(1.0)

    def compute_metrics(self, results):
        return dict(loss=sum(results))


SCHEDULES = [
    dict(type='ConstantLR'),
    dict(type='CosineAnnealingLR', T_max=6),
    dict(
        type='CosineRestartLR', periods=[3, 3], restart_weights=[1, 1], eta_min=0, by_epoch=False
    ),
    dict(type='ExponentialLR', gamma=0.9),
    dict(type='LinearLR', by_epoch=False),
    dict(type='MultiStepLR', milestones=[1]),
    dict(type='OneCycleLR', eta_max=1e-2, total_steps=6, by_epoch=False),
    dict(type='PolyLR', power=2),
    dict(type='ReduceOnPlateauLR', monitor='loss'),
    dict(type='StepLR', step_size=1),
]


def test_all_schedulers_of_mmengine_are_among_these():
    lr_schedulers = {name for name in PARAM_SCHEDULERS.module_dict if name.endswith('LR')}
    ours = {schedule['type'] for schedule in SCHEDULES}
    assert lr_schedulers - ours <= {'DefaultLR', 'ParamSchedulerWithoutBases'}


VALIDATION = dict(
    val_dataloader=dict(
        batch_size=2, dataset=Pairs(), sampler=dict(type='DefaultSampler', shuffle=False)
    ),
    val_cfg=dict(),
    val_evaluator=[MeanLoss()],
)


class ValidatedModel(TwoPartModel):
    def forward(self, inputs: list[torch.Tensor], mode: str) -> object:
        return super().forward(inputs, mode) if mode == 'loss' else inputs


@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda schedule: schedule['type'])
def test_no_schedule_of_mmengine_ends_the_run(tmp_path, schedule):
    log = log_of_a_run(tmp_path, model=ValidatedModel(), param_scheduler=[schedule], **VALIDATION)
    assert re.search(r'\S+ -> \S+ \(x \S+\): .*head', log)
    assert ': unknown' not in log
    waits = 'learning rate: ReduceOnPlateauLR depends on what the training gives' in log
    assert waits == (schedule['type'] == 'ReduceOnPlateauLR')


@PARAM_SCHEDULERS.register_module()
class ParamSchedulerWithoutBases:
    """A scheduler that shares nothing with mmengine's but what the runner calls."""

    def __init__(self, optimizer, **settings) -> None:
        self.by_epoch = True

    def step(self) -> None:
        pass

    def state_dict(self) -> dict:
        return {}


def test_a_run_by_iterations_counts_as_one_epoch(tmp_path):
    """mmengine steps a schedule by epoch at its end alone, not after each pass of the data."""
    log = log_of_a_run(
        tmp_path,
        train_cfg=dict(by_epoch=False, max_iters=9),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=Pairs(), sampler=dict(type='InfiniteSampler')
        ),
        param_scheduler=[dict(type='StepLR', step_size=1, gamma=10, by_epoch=True)],
    )
    assert re.search(r'0\.001 -> 0\.001 \(x 1\): head', log)
    assert '9 in all' in log


class Stream(IterableDataset):
    def __iter__(self):
        return (dict(inputs=torch.full((3,), float(number))) for number in range(100))


class Batches(BatchSampler):
    def __init__(self, sampler, batch_size: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.size = self.__dict__.pop('batch_size')

    def __iter__(self):
        return iter([[0, 1], [2, 3]])

    def __len__(self) -> int:
        return self.size


def two_optimizers(model: nn.Module) -> OptimWrapperDict:
    return OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), lr=rate))
            for name, rate in (('backbone', 1e-3), ('head', 1e-2))
        }
    )


class TwoOptimizerModel(TwoPartModel):
    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict:
        losses = self(**self.data_preprocessor(data, True), mode='loss')
        losses['loss'].backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
            wrapper.zero_grad()
        return losses


def test_several_optimizers_are_summed_up_but_for_their_rates(tmp_path):
    model = TwoOptimizerModel()
    wait = dict(type='ReduceOnPlateauLR', monitor='loss')
    log = log_of_a_run(
        tmp_path,
        model=model,
        optim_wrapper=two_optimizers(model),
        param_scheduler=dict(
            backbone=[wait], head=[dict(type='LinearLR', start_factor=0.5, end=3, by_epoch=False)]
        ),
    )
    assert 'learning rates: unknown, for there are several optimizers' in log
    assert 'base learning rate' not in log
    assert 'effective batch 2' in log


@LOOPS.register_module()
class LoopOfItsOwn(BaseLoop):
    """A training loop that has nothing but what mmengine requires of one."""

    def __init__(self, runner, dataloader, **settings) -> None:
        super().__init__(runner, dataloader)
        self.iter = self.epoch = 0
        self.max_epochs = self.max_iters = 1

    def run(self) -> None:
        self.runner.call_hook('before_train')
        self.runner.call_hook('after_train')


class SgdWithoutDefaultRate(torch.optim.SGD):
    """Its rates are those of the groups alone."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, **settings)
        del self.defaults['lr']


SCALED = dict(enable=True, base_batch_size=8)
SCALED_LINE = 'base learning rate 0.001 for batch 8, scaled by 0.25 to 0.00025 (auto_scale_lr)'
NO_LENGTH = 'learning rates: unknown, for the training loop has no length'
RATES = 'learning rate of the parameter groups (base -> peak of the schedule):'


@pytest.mark.parametrize(
    ('settings', 'lines', 'absent'),
    [
        (
            dict(train_cfg=dict(type='LoopOfItsOwn'), auto_scale_lr=SCALED),
            ('effective batch 2 =', SCALED_LINE, RATES),
            (),
        ),
        (
            dict(
                train_cfg=dict(by_epoch=False, max_iters=3),
                train_dataloader=dict(batch_size=2, num_workers=0, dataset=Stream(), sampler=None),
                param_scheduler=None,
                default_hooks=dict(logger=None),  # mmengine's own asks for the length
                auto_scale_lr=SCALED,
            ),
            ('effective batch 2 =', 'endless epochs', SCALED_LINE, NO_LENGTH),
            (),
        ),
        (
            dict(
                train_dataloader=dict(
                    num_workers=0,
                    batch_size=2,
                    dataset=Pairs(),
                    sampler=SequentialSampler(Pairs()),
                    batch_sampler=dict(type=Batches),
                )
            ),
            ('effective batch: unknown, for the batch sampler has no batch_size', RATES),
            ('base learning rate',),
        ),
        (dict(param_scheduler=[dict(type='ParamSchedulerWithoutBases')]), (RATES,), ()),
        (
            dict(
                optim_wrapper=dict(optimizer=dict(type='LBFGS', lr=1.0, max_iter=1)),
                model=TwoOptimizerModel(),
                train_cfg=dict(type='LoopOfItsOwn'),
            ),
            ('effective batch 2 =', 'base learning rate 1, not scaled', RATES),
            (),
        ),
        (
            dict(optim_wrapper=dict(optimizer=dict(type=SgdWithoutDefaultRate, lr=1e-3))),
            ('effective batch 2 =', RATES, '0.001 -> 0.00379904'),
            ('base learning rate',),
        ),
    ],
    ids=['loop', 'stream', 'batch sampler', 'scheduler', 'optimizer', 'no default rate'],
)
def test_only_what_cannot_be_found_out_is_unknown_and_the_run_goes_on(
    tmp_path, settings, lines, absent
):
    log = log_of_a_run(tmp_path, **settings)
    for line in ('This run:', *lines, 'parameters of'):
        assert line in log
    for line in (*absent, ': unknown ('):
        assert line not in log


def test_a_mean_over_classes_that_the_model_lacks_is_told_after_each_validation():
    prefix = 'NuScenes metric/pred_instances_3d_NuScenes'
    metrics = {f'{prefix}/car_AP_dist_{d}': 1.0 for d in (0.5, 1.0, 2.0, 4.0)}
    metrics |= {f'{prefix}/mAP': 0.1, f'{prefix}/NDS': 0.2}
    told = warnings_of(lambda: RunSummaryHook().after_val_epoch(None, metrics))
    assert 'Over its own 1 classes: mAP 1.0000' in told
    assert warnings_of(lambda: RunSummaryHook().after_val_epoch(None, dict(loss=1.0))) == ''


def test_messages_of_the_package_reach_the_log_of_the_current_run_once(tmp_path):
    show_package_log()
    show_package_log()
    for run in ('first', 'second'):
        MMLogger.get_instance(run, logger_name=run, log_file=str(tmp_path / f'{run}.log'))
        logging.getLogger('cmt_bias').info('said in the %s run', run)
    for run in ('first', 'second'):
        assert (tmp_path / f'{run}.log').read_text().count(f'said in the {run} run') == 1
        assert (tmp_path / f'{run}.log').read_text().count('said in the') == 1
