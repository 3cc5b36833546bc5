import pytest
import torch

from cmt_bias.cmt.single_thread import single_thread_on_cpu


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_there_is_one_thread_inside_and_as_many_as_before_outside():
    with single_thread_on_cpu(torch.zeros(1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_number_of_threads_comes_back_after_an_error():
    with pytest.raises(RuntimeError), single_thread_on_cpu(torch.zeros(1)):
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_other_devices_keep_their_threads():
    with single_thread_on_cpu(torch.zeros(1, device='meta')):
        assert torch.get_num_threads() == 2
