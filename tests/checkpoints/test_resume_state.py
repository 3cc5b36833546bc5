"""Optimizers and schedulers of a checkpoint that does not fit a training are refused."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import LinearLR, OptimWrapper, OptimWrapperDict
from torch import nn

from cmt_bias.checkpoints.resume_state import check_resume
from cmt_bias.checkpoints.safe_loading import CheckpointError


def one_optimizer() -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))


def one_training(num_schedulers: int = 1) -> SimpleNamespace:
    """What is read of a runner whose model has one optimizer."""
    wrapper = one_optimizer()
    schedulers = [LinearLR(wrapper) for _ in range(num_schedulers)]
    return SimpleNamespace(optim_wrapper=wrapper, param_schedulers=schedulers)


def training(**num_schedulers: int) -> SimpleNamespace:
    """What is read of a runner whose model has an optimizer of each name."""
    wrapper = OptimWrapperDict(**{name: one_optimizer() for name in num_schedulers})
    schedulers = {
        name: [LinearLR(wrapper[name]) for _ in range(number)]
        for name, number in num_schedulers.items()
    }
    return SimpleNamespace(optim_wrapper=wrapper, param_schedulers=schedulers)


def checkpoint_of(runner: SimpleNamespace) -> dict:
    """What mmengine saves of it."""
    schedulers = runner.param_schedulers
    states = (
        {name: [one.state_dict() for one in of_name] for name, of_name in schedulers.items()}
        if isinstance(schedulers, dict)
        else [one.state_dict() for one in schedulers]
    )
    optimizer = runner.optim_wrapper.state_dict()
    return {'meta': {'epoch': 1, 'iter': 4}, 'optimizer': optimizer, 'param_schedulers': states}


@pytest.mark.parametrize('same', [lambda: one_training(2), lambda: training(backbone=1, head=2)])
def test_training_goes_on_from_a_checkpoint_of_its_own_kind(same):
    check_resume(same(), checkpoint_of(same()), 'epoch_1.pth')


@pytest.mark.parametrize(
    ('configured', 'saved', 'own', 'others'),
    [
        (one_training(2), one_training(1), '2', '1'),
        (
            training(backbone=1, head=1),
            training(backbone=2, head=1),
            "{'backbone': 1, 'head': 1}",
            "{'backbone': 2, 'head': 1}",
        ),
        (training(backbone=1, head=1), one_training(2), "{'backbone': 1, 'head': 1}", '2'),
        (one_training(2), training(backbone=1, head=1), '2', "{'backbone': 1, 'head': 1}"),
    ],
)
def test_other_schedulers_are_refused_of_one_and_of_several_optimizers(
    configured, saved, own, others
):
    with pytest.raises(CheckpointError) as refusal:
        check_resume(configured, checkpoint_of(saved), 'epoch_1.pth')
    message = str(refusal.value)
    assert f"param_scheduler has {own} schedulers, the checkpoint's had {others}." in message
    assert 'Remedy: resume with the config that it was trained with' in message


def test_several_optimizers_without_schedulers_are_not_resumed_as_one():
    saved = checkpoint_of(training(backbone=0, head=0))
    del saved['param_schedulers']
    with pytest.raises(CheckpointError, match=r"'epoch_1\.pth' cannot be resumed: the optimizer"):
        check_resume(one_training(), saved, 'epoch_1.pth')


def test_moments_in_another_order_than_the_parameters_are_refused():
    def training_of(*shapes: int) -> SimpleNamespace:
        parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
        wrapper = OptimWrapper(torch.optim.AdamW(parameters, lr=0.1))
        wrapper.update_params(sum(parameter.sum() for parameter in parameters))
        return SimpleNamespace(optim_wrapper=wrapper, param_schedulers=[])

    check_resume(training_of(2, 3), checkpoint_of(training_of(2, 3)), 'epoch_1.pth')
    with pytest.raises(CheckpointError, match=r'moment of parameter 0 has the shape \(3,\)'):
        check_resume(training_of(2, 3), checkpoint_of(training_of(3, 2)), 'epoch_1.pth')


class WrapperOfItsOwn:
    """One that keeps its state in a way of its own, as DeepSpeed's does."""

    def state_dict(self) -> dict:
        return {'steps': 4}


def test_another_kind_of_wrapper_is_left_to_mmengine():
    runner = SimpleNamespace(optim_wrapper=WrapperOfItsOwn(), param_schedulers=None)
    saved = {'meta': {'epoch': 1, 'iter': 4}, 'optimizer': runner.optim_wrapper.state_dict()}
    check_resume(runner, saved, 'epoch_1.pth')
