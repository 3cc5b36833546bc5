"""What is said of the optimizer: gradients of its steps, and how far it can go."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from cmt_bias.bias.monitor.hook import BiasScaleHook
from cmt_bias.bias.monitor.scale_optimizer import find_scale_optimizer

from ..biased_model import BiasedModel, make_runner, read_log, warnings_in


def test_the_gradient_is_that_of_the_latest_step_until_released():
    scale, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(1))
    wrapper = OptimWrapper(torch.optim.SGD([other, scale], lr=0.1))
    assert find_scale_optimizer(wrapper, nn.Parameter(torch.ones(1))) is None
    optimizer = find_scale_optimizer(wrapper, scale)
    assert optimizer.gradient is None and not optimizer.lacks_gradient
    scale.grad = torch.arange(4.0).reshape(2, 2)
    wrapper.step()
    wrapper.optimizer.zero_grad(set_to_none=False)
    assert optimizer.gradient == [0.0, 1.0, 2.0, 3.0] and not optimizer.lacks_gradient
    wrapper.optimizer.zero_grad()
    wrapper.step()
    assert optimizer.lacks_gradient
    optimizer.handle.remove()
    assert not wrapper.optimizer._optimizer_step_pre_hooks


class Fused(torch.optim.SGD):
    """Stands for a fused optimizer, which gets scaled gradients, and infinite ones."""

    def step(self) -> None:
        pass


def test_a_step_does_not_wait_for_the_device():
    """A tensor on 'meta' cannot be asked for its numbers, which on a GPU waits."""
    scale = nn.Parameter(torch.ones(2, device='meta'))
    wrapper = OptimWrapper(Fused([scale], lr=0.1))
    find_scale_optimizer(wrapper, scale)
    scale.grad = torch.ones_like(scale)
    wrapper.optimizer.found_inf = wrapper.optimizer.grad_scale = torch.ones((), device='meta')
    wrapper.step()


def test_a_first_step_that_is_left_out_gives_no_gradient():
    scale = nn.Parameter(torch.ones(2))
    wrapper = OptimWrapper(Fused([scale], lr=0.1))
    optimizer = find_scale_optimizer(wrapper, scale)
    for found_inf, gradient, expected in (
        (1.0, torch.inf, None),
        (0.0, 8.0, [2.0, 2.0]),
        (1.0, torch.nan, [2.0, 2.0]),
    ):
        scale.grad = torch.full_like(scale, gradient)
        wrapper.optimizer.found_inf = torch.tensor(found_inf)
        wrapper.optimizer.grad_scale = torch.tensor(4.0)
        wrapper.step()
        assert optimizer.gradient == expected


class RatesOfScale(Hook):
    """Sums up the rates with which the scale is really trained."""

    total = 0.0

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self.total += runner.optim_wrapper.param_groups[0]['lr']


FAST = dict(lr_mult=1.0, decay_mult=0.0)
SCHEDULES = {
    'none': [],
    'by_iteration': [dict(type='ConstantLR', factor=0.5, begin=0, end=11, by_epoch=False)],
    'by_epoch': [dict(type='MultiStepLR', milestones=[1], gamma=0.1)],
    'in_parts': [
        dict(type='LinearLR', start_factor=0.1, end=7, by_epoch=False),
        dict(type='CosineAnnealingLR', eta_min_ratio=0.1, begin=7, T_max=13, by_epoch=False),
    ],
    'of_other_things': [dict(type='ConstantMomentum', factor=0.9, by_epoch=True)],
}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_the_way_is_the_sum_of_the_rates_that_follow(tmp_path, schedule, by_epoch):
    rates = RatesOfScale()
    settings = dict(param_scheduler=SCHEDULES[schedule], scale_settings=FAST)
    runner = make_runner(tmp_path, BiasedModel(), [BiasScaleHook(), rates], **settings)
    if not by_epoch:
        runner._train_loop = dict(by_epoch=False, max_iters=20)
    runner.train()
    assert f'sums up to {rates.total:.3g}\n' in read_log(tmp_path)


def test_after_a_resume_the_way_is_by_the_schedule_that_holds(tmp_path):
    """The checkpoint's schedule goes on, whatever the config says by now."""

    def train(schedule: str, max_epochs: int) -> tuple[float, str]:
        rates = RatesOfScale()
        make_runner(
            tmp_path,
            BiasedModel(),
            [BiasScaleHook(), rates],
            max_epochs=max_epochs,
            param_scheduler=SCHEDULES[schedule],
            scale_settings=FAST,
            resume=max_epochs == 2,
        ).train()
        return rates.total, read_log(tmp_path)

    train('by_iteration', 1)
    total, log = train('by_epoch', 2)
    assert f'sums up to {total:.3g}\n' in log
    assert warnings_in(tmp_path) == []


@pytest.mark.parametrize('kind', ['ReduceOnPlateauLR', 'ReduceOnPlateauMomentum'])
def test_what_cannot_be_known_beforehand_is_said_to_be_unknown(tmp_path, kind):
    settings = dict(param_scheduler=[dict(type=kind, monitor='loss')], scale_settings=FAST)
    make_runner(tmp_path, BiasedModel(), [BiasScaleHook()], **settings).train()
    assert ('is not known beforehand' in read_log(tmp_path)) == kind.endswith('LR')
    assert warnings_in(tmp_path) == []


def test_a_scheduler_that_raises_when_played_costs_nothing(tmp_path):
    runner = make_runner(tmp_path, BiasedModel(), [BiasScaleHook()], max_epochs=1)

    class OwnScheduler:
        param_name, by_epoch, optimizer = 'lr', True, None

        def step(self) -> None:
            pass

        def state_dict(self) -> dict:
            return {}

    runner.param_schedulers = [OwnScheduler()]
    runner.build_param_scheduler = lambda schedulers: schedulers
    runner.train()
    assert (tmp_path / 'bias_scale.csv').is_file()
