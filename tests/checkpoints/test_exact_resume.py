"""A resumed run equals an uninterrupted one, loss by loss and weight by weight, bit for bit."""

import inspect

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner, save_checkpoint

from cmt_bias.checkpoints.safe_loading import load_checkpoint_safely

MID_EPOCH = {'loop': 'ResumableEpochBasedTrainLoop', 'checkpoint_every_iters': 3}
WORKERS = {'num_workers': 2}
CASES = {
    'data_loaded_in_the_training_process_with_validation': {'validate': True},
    'data_loaded_by_workers': {**WORKERS},
    'workers_seeded_per_epoch_with_validation': {
        **WORKERS,
        'per_epoch_seeds': True,
        'validate': True,
    },
    'inside_an_epoch': {**MID_EPOCH},
    'inside_an_epoch_with_workers': {**MID_EPOCH, **WORKERS, 'per_epoch_seeds': True},
    'checkpoint_at_the_last_iteration_of_an_epoch': {**MID_EPOCH, 'checkpoint_every_iters': 4},
    'iteration_based_with_workers': {
        **WORKERS,
        'loop': 'IterBasedTrainLoop',
        'checkpoint_every_iters': 3,
    },
    'two_processes': {'num_processes': 2, 'max_epochs': 6},
    'averaged_model_with_its_buffers': {'average': True, 'validate': True},
}


@pytest.mark.parametrize('case', CASES)
def test_resumed_run_equals_uninterrupted_run(
    case, training_server, assert_same_training, tmp_path
):
    options = CASES[case]
    training_server.train_until_killed(tmp_path, at_iteration=9, **options)
    training_server.train(tmp_path, resume=True, **options)
    assert_same_training(tmp_path, training_server.uninterrupted(**options))


def test_seed_that_mmengine_chose_is_kept_by_the_resumed_run(
    training_server, assert_same_training, tmp_path
):
    options = {'seed': None, 'num_workers': 2}
    training_server.train_until_killed(tmp_path, at_iteration=9, **options)
    seed = load_checkpoint_safely(tmp_path / 'epoch_2.pth')['meta']['seed']
    training_server.train(tmp_path, resume=True, **options)
    assert_same_training(tmp_path, training_server.uninterrupted(num_workers=2, seed=seed))


def test_validation_does_not_change_the_training(training_server, assert_same_training):
    with_validation = training_server.uninterrupted(validate=True)
    assert_same_training(with_validation, training_server.uninterrupted())


def test_checkpoint_of_the_stock_hook_resumes_with_a_warning(training_server, tmp_path):
    training_server.train(tmp_path, hook='CheckpointHook', max_epochs=2)
    checkpoint = str(tmp_path / 'epoch_2.pth')
    training_server.train(tmp_path / 'resumed', resume=True, load_from=checkpoint)
    assert (
        'since the checkpoint has none (of another hook)'
        in (tmp_path / 'resumed/output.log').read_text()
    )
    losses = (tmp_path / 'resumed' / 'losses_0.txt').read_text().splitlines()
    assert [int(line.split()[0]) for line in losses] == list(range(8, 16))


def test_stock_loop_warns_that_it_repeats_batches_inside_an_epoch(training_server, tmp_path):
    training_server.train_until_killed(tmp_path, at_iteration=7, checkpoint_every_iters=3)
    training_server.train(tmp_path, resume=True, checkpoint_every_iters=3)
    log = (tmp_path / 'output.log').read_text()
    assert "train_cfg=dict(type='ResumableEpochBasedTrainLoop'" in log


def test_workers_that_outlive_an_epoch_are_warned_of(training_server, tmp_path):
    training_server.train(tmp_path, num_workers=1, persistent_workers=True, max_epochs=1)
    assert 'persistent_workers=False' in (tmp_path / 'output.log').read_text()


def test_checkpoint_of_an_averaged_model_has_numbers_alone(training_server):
    work_dir = training_server.uninterrupted(average=True, validate=True)
    checkpoint = load_checkpoint_safely(work_dir / 'epoch_4.pth')  # which looks for NaN everywhere
    average, last = checkpoint['state_dict'], checkpoint['ema_state_dict']
    assert not torch.equal(average['layers.0.weight'], last['module.layers.0.weight'])


def test_average_that_became_nan_is_not_saved_and_is_named(training_server, tmp_path):
    training_server.start(tmp_path, average=True, range_without_bounds=True)
    assert training_server.wait() == 1
    log = (tmp_path / 'output.log').read_text()
    assert 'No checkpoint is saved at iteration 4' in log and 'any more: range' in log
    assert not list(tmp_path.glob('*.pth'))


def test_range_without_bounds_is_saved_and_resumed(
    training_server, assert_same_training, tmp_path
):
    options = {'range_without_bounds': True, 'max_epochs': 3}
    training_server.train_until_killed(tmp_path, at_iteration=9, **options)
    training_server.train(tmp_path, resume=True, **options)
    assert_same_training(tmp_path, training_server.uninterrupted(**options))


def test_history_of_logged_numbers_is_kept(training_server, tmp_path):
    training_server.train_until_killed(tmp_path, at_iteration=9)
    training_server.train(tmp_path, resume=True)

    def histories(work_dir):
        hub = load_checkpoint_safely(work_dir / 'epoch_4.pth')['message_hub']
        return hub['log_histories']

    # as mmengine warns of each that a run has logged and chosen not to keep
    assert 'not defined in message_hub' not in (tmp_path / 'output.log').read_text()
    resumed, whole = histories(tmp_path), histories(training_server.uninterrupted())
    assert resumed.keys() == whole.keys()
    for entry in ('values', 'counts'):
        assert torch.equal(resumed['train/loss'][entry], whole['train/loss'][entry])


SKIP = [
    'layers.0.weight',
    'layers.0.bias',
    'layers.1.weight',
    'layers.1.bias',
    'layers.1.running_mean',
    'layers.1.running_var',
    'layers.3.weight',
]


def test_weights_of_another_size_stop_a_training_unless_they_are_named(training_server, tmp_path):
    other = training_server.uninterrupted() / 'epoch_4.pth'
    options = {'load_from': str(other), 'num_features': 10, 'max_epochs': 1}
    training_server.start(tmp_path / 'a', **options)
    assert training_server.wait() == 1
    log = (tmp_path / 'a' / 'output.log').read_text()
    assert 'layers.0.weight (model (10, 6), checkpoint (8, 6))' in log
    assert f'load_from_skip={SKIP}' in log
    training_server.train(tmp_path / 'b', load_from_skip=SKIP, **options)
    parts = ['layers.0', 'layers.1', 'layers.3.weight']
    training_server.train(tmp_path / 'c', load_from_skip=parts, **options)


def test_weights_alone_are_not_resumed(training_server, tmp_path):
    weights = training_server.uninterrupted() / 'final_weights.pth'
    training_server.start(tmp_path, load_from=str(weights), resume=True)
    assert training_server.wait() == 1
    assert 'holds weights, but no training' in (tmp_path / 'output.log').read_text()


@pytest.mark.parametrize(
    ('owner', 'code'),
    [
        (CheckpointHook, 'def _save_checkpoint_with_step(self, runner, step, meta)'),
        (CheckpointHook.after_train_epoch, 'self._save_checkpoint(runner)'),
        (CheckpointHook._save_checkpoint, 'self._save_checkpoint_with_step(runner, step, meta'),
        (CheckpointHook.before_train, 'self.file_backend = '),
        (CheckpointHook._save_checkpoint_with_step, 'self.file_backend.remove(ckpt_path)'),
        (CheckpointHook._save_best_checkpoint, 'self.file_backend.remove(best_ckpt_path)'),
        (save_checkpoint, 'file_backend.put(f.getvalue(), filename)'),
        (Runner.train, "call_hook('before_run')"),
        (Runner.load_or_resume, 'if self._resume and self._load_from is None'),
        (EpochBasedTrainLoop.run_epoch, 'self.run_iter(idx, data_batch)'),
        (EpochBasedTrainLoop.run_iter, 'self._iter += 1'),
    ],
)
def test_mmengine_is_built_as_the_hook_and_the_loop_take_for_granted(owner, code):
    """What these override or set is not documented; the tests above would fail with it."""
    assert code in inspect.getsource(owner)
