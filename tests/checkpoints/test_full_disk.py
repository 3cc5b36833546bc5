"""A training that runs out of disk loses nothing of what it had."""

from cmt_bias.checkpoints import ResumableCheckpointHook
from cmt_bias.checkpoints.latest_checkpoint import find_checkpoint_to_resume


def test_training_on_a_full_disk_keeps_its_checkpoint_and_goes_on_when_there_is_room(
    training_server, assert_same_training, tmp_path
):
    training_server.train_until_killed(tmp_path, at_iteration=5)
    training_server.start(tmp_path, resume=True, largest_file=20_000)
    assert training_server.wait() == 1
    assert 'File too large' in (tmp_path / 'output.log').read_text()
    assert find_checkpoint_to_resume(ResumableCheckpointHook(), str(tmp_path)) == str(
        tmp_path / 'epoch_1.pth'
    )
    assert not list(tmp_path.glob('.*.partial'))
    training_server.train(tmp_path, resume=True)
    assert_same_training(tmp_path, training_server.uninterrupted())
