"""A resumed run equals an uninterrupted one, loss by loss and weight by weight, bit for bit."""

import pytest

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
    assert 'the checkpoint has no random state' in (tmp_path / 'resumed/output.log').read_text()
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
