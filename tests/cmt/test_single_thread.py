import pytest
import torch
from mmdet3d.registry import MODELS

from cmt_bias.cmt.single_thread import single_thread_on_cpu


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_sparse_convolutions_give_the_same_with_any_number_of_threads(four_threads):
    """spconv loses products where several threads add to one voxel."""
    torch.manual_seed(0)
    encoder = MODELS.build(
        dict(
            type='SparseEncoder',
            in_channels=5,
            sparse_shape=[41, 128, 128],
            output_channels=16,
            encoder_channels=((16, 16, 32), (32, 32, 32), (32, 32, 32), (32, 32)),
            encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
            block_type='basicblock',
        )
    ).eval()
    cells = torch.randperm(40 * 128 * 128)[:40000]
    coors = torch.stack([cells * 0, cells // 16384, cells // 128 % 128, cells % 128], 1).int()
    features = torch.rand(len(coors), 5)
    outputs = []
    with torch.no_grad():
        for _ in range(3):
            with single_thread_on_cpu(features):
                outputs.append(encoder(features, coors, 1))
    assert torch.get_num_threads() == 4
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_the_number_of_threads_comes_back_after_an_error(four_threads):
    with pytest.raises(RuntimeError), single_thread_on_cpu(torch.zeros(1)):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 4
