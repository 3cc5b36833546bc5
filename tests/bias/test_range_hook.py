"""BiasScaleRangeHook: the right range in every epoch, however the run got there."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmt_bias.bias import BiasScale
from cmt_bias.bias.range_hook import BiasScaleRangeHook

from .biased_model import BiasedModel, make_runner, read_log, warnings_in

SCHEDULE = [(0, (1.0, 2.75)), (2, (0.5, 4.0)), (3, (None, 5.0))]
RANGES = [(1.0, 2.75), (1.0, 2.75), (0.5, 4.0), (-torch.inf, 5.0)]


class RangeRecorder(Hook):
    """Notes the range in the iterations of each epoch."""

    def __init__(self) -> None:
        self.ranges: list[tuple[float, float]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        if batch_idx == 0:
            generator = runner.model.pts_bbox_head.attention_bias_generator
            self.ranges.append(generator.bounds())


def train(work_dir, **settings) -> tuple[list[tuple[float, float]], BiasedModel]:
    model, recorder = BiasedModel(), RangeRecorder()
    hooks = [BiasScaleRangeHook(SCHEDULE), recorder]
    make_runner(work_dir, model, hooks, **settings).train()
    return recorder.ranges, model


def test_every_epoch_has_its_range_and_changes_are_logged(tmp_path):
    ranges, _ = train(tmp_path, max_epochs=4)
    assert ranges == RANGES
    log = read_log(tmp_path)
    assert 'Epoch 1: the bias scale may now take values in [1, 2.75], before [-inf, inf]' in log
    assert 'Epoch 3: the bias scale may now take values in [0.5, 4], before [1, 2.75]' in log
    assert log.count('may now take values') == 3
    assert warnings_in(tmp_path) == []


@pytest.mark.parametrize('stopped_after', [1, 2, 3])
def test_a_resumed_run_has_the_same_ranges(tmp_path, stopped_after):
    first, _ = train(tmp_path, max_epochs=stopped_after)
    second, _ = train(tmp_path, max_epochs=4, resume=True)
    assert first + second == RANGES


def test_the_checkpoint_keeps_the_range_for_testing(tmp_path):
    train(tmp_path, max_epochs=3)
    checkpoint = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    model = BiasedModel()
    model.load_state_dict(checkpoint['state_dict'])
    assert model.pts_bbox_head.attention_bias_generator.bounds() == RANGES[2]


def test_ranges_after_the_last_epoch_are_warned_of(tmp_path):
    train(tmp_path, max_epochs=2)
    (warning,) = warnings_in(tmp_path)
    assert 'the ranges from epoch 2 on never apply, since training has 2 epochs' in warning


@pytest.mark.parametrize(
    ('scale', 'refused'), [(0.9, True), (3.0, True), (0.975, True), (1.0, False), (2.7, False)]
)
def test_a_start_outside_the_first_range_is_refused(tmp_path, scale, refused):
    hooks = [BiasScaleRangeHook([(0, (1.0, 2.7))])]
    runner = make_runner(tmp_path, BiasedModel(bias_scale=scale), hooks, max_epochs=1)
    if not refused:
        runner.train()
        return
    key = 'model.pts_bbox_head.attention_bias_config.bias_scale'
    with pytest.raises(ValueError, match=rf'starts at {scale:g}.*{key}'):
        runner.train()


@pytest.mark.parametrize('bound', ['min_scale', 'max_scale'])
def test_a_range_in_the_config_beside_a_schedule_is_refused(tmp_path, bound):
    """It would hold in testing, though training had another one."""
    model = BiasedModel()
    bounds = {bound: 2.5}
    model.pts_bbox_head.attention_bias_generator = BiasScale(learnable_scale=True, **bounds)
    runner = make_runner(tmp_path, model, [BiasScaleRangeHook(SCHEDULE)], max_epochs=1)
    with pytest.raises(ValueError, match='attention_bias_config has min_scale or .*; remove'):
        runner.train()


def test_training_by_iterations_is_refused(tmp_path):
    hooks = [BiasScaleRangeHook(SCHEDULE)]
    runner = make_runner(tmp_path, BiasedModel(), hooks)
    runner._train_loop = dict(by_epoch=False, max_iters=2)
    with pytest.raises(TypeError, match='by_epoch=True'):
        runner.train()


@pytest.mark.parametrize(
    'schedule',
    [
        [],
        '(0, (1, 2))',
        5,
        [(1, (1.0, 2.0))],
        [(0, (1.0, 2.0)), (5, (0.5, 3.0)), (5, (0.1, 4.0))],
        [(0, (2.0, 2.0))],
        [(0, (1.0, 2.0)), (3, 4.0)],
        [(0, (1.0, 2.0, 3.0))],
        [('0', (1.0, 2.0))],
        [(0, ('low', None))],
    ],
)
def test_schedules_that_cannot_be_meant_are_refused(schedule):
    with pytest.raises(ValueError, match='BiasScaleRangeHook: schedule=.* must be .*, such as'):
        BiasScaleRangeHook(schedule)


def test_lists_of_a_config_file_are_as_good_as_tuples():
    hook = BiasScaleRangeHook([[0, [None, 2]], [4, [1, None]]])
    assert hook.schedule == [(0, (None, 2)), (4, (1, None))]
