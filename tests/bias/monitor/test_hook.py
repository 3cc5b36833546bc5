"""BiasScaleHook in real runs of mmengine's runner, on a model with a biased head's interface."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from torch import nn

from cmt_bias.bias.monitor.hook import BiasScaleHook

from ..biased_model import NAMES, BiasedModel, make_runner, read_log, warnings_in


class StoppedError(Exception):
    """Stands for a crash."""


class StopAt(Hook):
    """Crashes in an iteration, after all other hooks have seen it."""

    priority = 'LOWEST'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.iteration:
            raise StoppedError


class SpyOnScale(Hook):
    """Notes each iteration's scale after it, and the gradient that the optimizer used."""

    def __init__(self) -> None:
        self.scales: list[list[float]] = []
        self.gradients: list[list[float]] = []

    def before_train(self, runner: Runner) -> None:
        self.scale = dict(runner.model.named_parameters())[
            'pts_bbox_head.attention_bias_generator.bias_scale'
        ]
        # Sees what plain backward passes give.
        self.scale.register_post_accumulate_grad_hook(
            lambda scale: self.gradients.append(scale.grad.flatten().tolist())
        )

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self.scales.append(self.scale.flatten().tolist())


def rows_of(work_dir: Path) -> list[dict[str, str]]:
    with (work_dir / 'bias_scale.csv').open() as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row[name]]


@pytest.mark.parametrize('granularity', NAMES)
def test_every_interval_has_scale_gradient_and_weights(tmp_path, granularity):
    spy = SpyOnScale()
    model = BiasedModel(scale_granularity=granularity)
    make_runner(tmp_path, model, [BiasScaleHook(interval=4, draw_curve=False), spy]).train()

    rows = rows_of(tmp_path)
    assert [row['iteration'] for row in rows] == ['0', '4', '8', '12', '16', '20']
    assert [row['epoch'] for row in rows] == ['1', '1', '1', '2', '2', '2']
    assert column(rows, 'learning_rate') == pytest.approx([0.01] * 6)
    for index, name in enumerate(NAMES[granularity]):
        scales = [2.5, *(spy.scales[iteration - 1][index] for iteration in (4, 8, 12, 16, 20))]
        assert column(rows, f'bias_scale/{name}') == pytest.approx(scales, abs=1e-7)
        gradients = [spy.gradients[iteration - 1][index] for iteration in (4, 8, 12, 16, 20)]
        assert column(rows, f'bias_scale_grad/{name}') == pytest.approx(gradients, rel=1e-6)
    assert {(row['range_low'], row['range_high']) for row in rows} == {('-inf', 'inf')}


def test_statistics_are_those_of_the_weights_of_the_logged_batch(tmp_path):
    model = BiasedModel()
    seen = []
    model.pts_bbox_head.weight_generator.register_forward_hook(
        lambda module, inputs, weights: seen.append([w.detach() for w in weights])
    )
    make_runner(
        tmp_path, model, [BiasScaleHook(interval=7, draw_curve=False)], max_epochs=1
    ).train()

    rows = rows_of(tmp_path)[1:]
    assert [row['iteration'] for row in rows] == ['7', '10']  # the last one is always there
    for row, iteration in zip(rows, (7, 10), strict=True):
        for modality, weights in zip(('lidar', 'camera'), seen[iteration - 1], strict=True):
            mean, std = float(row[f'{modality}_mean']), float(row[f'{modality}_std'])
            assert mean == pytest.approx(weights.mean().item(), abs=1e-6)
            assert std == pytest.approx(weights.std(correction=0).item(), abs=1e-6)


class CallsTwice(BiasedModel):
    """Its weight generator is called for two groups of queries in an iteration."""

    def forward(self, inputs: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
        self.pts_bbox_head.weight_generator(inputs.repeat(1, 3).unflatten(1, (3, -1)))
        return super().forward(inputs, mode)


def test_several_calls_in_an_iteration_count_together_and_those_between_do_not(tmp_path):
    model, hook = CallsTwice(), BiasScaleHook(interval=4, draw_curve=False)
    generator, seen = model.pts_bbox_head.weight_generator, []

    class CallBetween(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
            seen.clear()

        def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
            if runner.iter + 1 == 8:
                self.weights = [torch.cat([call[index] for call in seen]) for index in (0, 1)]
            generator(torch.full((1, 5, 3), 99.0))

    between = CallBetween()
    generator.register_forward_hook(
        lambda module, inputs, weights: seen.append([w.double().flatten() for w in weights])
    )
    make_runner(tmp_path, model, [hook, between], max_epochs=1).train()

    row = rows_of(tmp_path)[2]
    assert row['iteration'] == '8'
    for modality, weights in zip(('lidar', 'camera'), between.weights, strict=True):
        assert len(weights) == 2 * 3 + 2
        assert float(row[f'{modality}_mean']) == pytest.approx(weights.mean().item(), rel=1e-6)
        deviation = weights.std(correction=0).item()
        assert float(row[f'{modality}_std']) == pytest.approx(deviation, rel=1e-6)


def test_logged_values_reach_console_and_json(tmp_path):
    hook = BiasScaleHook(interval=5, draw_curve=False)
    make_runner(tmp_path, BiasedModel(scale_granularity='modality'), [hook]).train()

    (scalars,) = tmp_path.rglob('vis_data/scalars.json')
    last = json.loads(scalars.read_text().splitlines()[-1])
    row = rows_of(tmp_path)[-1]
    for name in ('bias_scale/lidar', 'bias_scale/camera', 'bias_scale_grad/lidar'):
        assert last[name] == pytest.approx(float(row[name]))
    for name in ('lidar_mean', 'lidar_std', 'camera_mean', 'camera_std'):
        assert last[f'router/{name}'] == pytest.approx(float(row[name]))
    assert last['bias_scale_lr'] == pytest.approx(0.01)
    line = next(line for line in read_log(tmp_path).splitlines() if '[2][10/10]' in line)
    assert f'bias_scale/lidar: {float(row["bias_scale/lidar"]):.4f}' in line
    assert 'router/camera_std: ' in line


def test_after_training_nothing_is_hooked(tmp_path):
    model = BiasedModel()
    runner = make_runner(tmp_path, model, [BiasScaleHook(interval=5, draw_curve=False)])
    runner.train()

    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    assert not model.pts_bbox_head.weight_generator._forward_hooks
    assert not model.pts_bbox_head.attention_bias_generator.bias_scale._backward_hooks


def test_a_crash_and_a_resume_neither_lose_nor_double_rows(tmp_path):
    start = partial(make_runner, max_epochs=3)
    start(tmp_path / 'whole', BiasedModel(), [BiasScaleHook(interval=2, draw_curve=False)]).train()
    expected = rows_of(tmp_path / 'whole')

    broken = tmp_path / 'broken'
    with pytest.raises(StoppedError):  # six iterations after the checkpoint of the first epoch
        start(
            broken, BiasedModel(), [BiasScaleHook(interval=2, draw_curve=False), StopAt(16)]
        ).train()
    assert rows_of(broken)[-1]['iteration'] == '16'
    with (broken / 'bias_scale.csv').open('a') as file:
        file.write('18,2,0.01,2.6')  # cut off by a kill
    start(
        broken, BiasedModel(), [BiasScaleHook(interval=2, draw_curve=False)], resume=True
    ).train()

    rows = rows_of(broken)
    iterations = [row['iteration'] for row in rows]
    assert iterations == [row['iteration'] for row in expected]
    assert rows[:6] == expected[:6]  # to iteration 10, from which the run went on


def test_a_run_that_begins_anew_keeps_the_old_history(tmp_path):
    make_runner(
        tmp_path, BiasedModel(), [BiasScaleHook(interval=5, draw_curve=False)], max_epochs=1
    ).train()
    old = rows_of(tmp_path)
    make_runner(tmp_path, BiasedModel(), [BiasScaleHook(interval=2, draw_curve=False)]).train()

    assert [row['iteration'] for row in rows_of(tmp_path)] == [str(2 * i) for i in range(11)]
    with (tmp_path / 'bias_scale.1.csv').open() as file:
        assert list(csv.DictReader(file)) == old


def test_accumulated_gradients_are_those_of_the_latest_step(tmp_path):
    spy = SpyOnScale()
    hooks = [BiasScaleHook(interval=5, draw_curve=False), spy]
    make_runner(tmp_path, BiasedModel(), hooks, max_epochs=1, accumulative_counts=3).train()

    # Steps come after iterations 3, 6, 9 and 10, the spy sees the sum grow in between.
    gradients = [gradient for (gradient,) in spy.gradients]
    rows = rows_of(tmp_path)
    assert column(rows, 'bias_scale_grad/shared') == pytest.approx([gradients[2], gradients[9]])


@pytest.fixture
def amp_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets mmengine's AmpOptimWrapper run on a CPU."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('torch 2.3 brings a scaler of losses for CPUs')
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)


@pytest.mark.usefixtures('amp_on_cpu')
@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('clip', [None, dict(max_norm=1e6)])
def test_amp_loss_scale_is_taken_out_of_the_gradient(tmp_path, fused, clip):
    spy = SpyOnScale()
    amp = dict(
        type='AmpOptimWrapper',
        loss_scale=1024.0,
        dtype='bfloat16',
        clip_grad=clip,
        optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.0, fused=fused),
    )
    hooks = [BiasScaleHook(interval=5, draw_curve=False), spy]
    runner = make_runner(tmp_path, BiasedModel(), hooks, max_epochs=1, optim_wrapper=amp)
    runner.train()

    assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
    gradients = [gradient / 1024 for (gradient,) in spy.gradients]
    logged = column(rows_of(tmp_path), 'bias_scale_grad/shared')
    assert logged == pytest.approx([gradients[4], gradients[9]], rel=1e-5)


@pytest.mark.usefixtures('amp_on_cpu')
@pytest.mark.parametrize('fused', [False, True])
def test_a_step_left_out_by_the_loss_scaler_is_no_alarm(tmp_path, fused):
    model = BiasedModel()
    scale = model.pts_bbox_head.attention_bias_generator.bias_scale
    calls = []

    def overflow_in_fifth(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * (torch.inf if len(calls) == 5 else 1)

    scale.register_hook(overflow_in_fifth)
    amp = dict(
        type='AmpOptimWrapper',
        loss_scale=dict(init_scale=16.0),
        dtype='bfloat16',
        optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.0, fused=fused),
    )
    hooks = [BiasScaleHook(interval=5, draw_curve=False)]
    make_runner(tmp_path, model, hooks, max_epochs=1, optim_wrapper=amp).train()

    assert [bool(row['bias_scale_grad/shared']) for row in rows_of(tmp_path)] == [
        False,
        True,  # of the fourth iteration
        True,
    ]
    assert not any('gradient' in warning for warning in warnings_in(tmp_path))


def test_a_good_run_gives_no_warning_and_a_reading(tmp_path):
    settings = dict(scale_settings=dict(lr_mult=0.5, decay_mult=0.0), max_epochs=4)
    make_runner(tmp_path, BiasedModel(), [BiasScaleHook(interval=2)], **settings).train()

    assert warnings_in(tmp_path) == []
    log = read_log(tmp_path)
    assert 'pts_bbox_head.attention_bias_generator.bias_scale: learnable, shared 2.5' in log
    assert 'shared 2.5; range [-inf, inf]' in log
    assert 'its learning rate over the steps to come sums up to 2\n' in log  # 40 x 0.1 x 0.5
    assert 'Bias scale at the end:\n  shared 2.5 -> ' in log
    assert (tmp_path / 'bias_scale_curve.png').read_bytes()[:4] == b'\x89PNG'


def test_a_fixed_scale_is_logged_and_nothing_said(tmp_path):
    model = BiasedModel(bias_scale=0.1, learnable_scale=False)
    make_runner(tmp_path, model, [BiasScaleHook(interval=5, draw_curve=False)], lr=1e-9).train()

    rows = rows_of(tmp_path)
    assert column(rows, 'bias_scale/shared') == pytest.approx([0.1] * 5)
    assert column(rows, 'bias_scale_grad/shared') == column(rows, 'learning_rate') == []
    assert len(column(rows, 'lidar_std')) == 4
    assert warnings_in(tmp_path) == []
    assert 'at the end' not in read_log(tmp_path)
    assert 'fixed, shared' in read_log(tmp_path)


def without_bias(model: BiasedModel) -> None:
    model.uses_bias = False


def frozen(model: BiasedModel) -> None:
    model.pts_bbox_head.attention_bias_generator.bias_scale.requires_grad_(False)


def at_bound(model: BiasedModel) -> None:
    model.pts_bbox_head.attention_bias_generator.set_scale_range(0.5, 2.6)


def untrained_router(model: BiasedModel) -> None:
    model.pts_bbox_head.weight_generator.requires_grad_(False)


def dropped_bias(model: BiasedModel) -> None:
    scale = model.pts_bbox_head.attention_bias_generator.bias_scale
    scale.register_hook(torch.zeros_like)


def not_a_number(model: BiasedModel) -> None:
    scale = model.pts_bbox_head.attention_bias_generator.bias_scale
    scale.register_hook(lambda gradient: gradient * torch.nan)


@pytest.mark.parametrize(
    ('model', 'change', 'settings', 'expected'),
    [
        (dict(bias_scale=0.1), None, {}, ['starts at 0.1, which is too weak']),
        (dict(bias_scale=10.0), None, {}, ['starts at 10, which saturates the softmax']),
        ({}, without_bias, {}, ['got no gradient: the bias does not reach the loss']),
        ({}, frozen, {}, ['is learnable, but frozen']),
        ({}, at_bound, {}, ['within 5% of max_scale=2.6']),
        ({}, untrained_router, {}, ['All weights are still exactly 0 after 6 iterations']),
        ({}, dropped_bias, {}, ['has been exactly 0 in 3 logged iterations']),
        ({}, not_a_number, {}, ['value, gradient of ']),
        ({}, None, dict(lr=1e-4), ['schedule cannot move']),
        ({}, None, dict(scale_settings=dict(lr_mult=0.2)), ['Weight decay of 0.01 pulls']),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_what_goes_wrong_is_said_once_with_key_and_remedy(
    tmp_path, model, change, settings, expected
):
    settings = dict(dict(scale_settings=dict(lr_mult=0.2, decay_mult=0.0)), **settings)
    built = BiasedModel(**model)
    if change is not None:
        change(built)
    make_runner(tmp_path, built, [BiasScaleHook(interval=2, draw_curve=False)], **settings).train()

    warnings = warnings_in(tmp_path)
    assert len(warnings) == len(expected), warnings
    for warning, part in zip(warnings, expected, strict=True):
        assert part in warning
        assert 'bias' in warning


def test_a_scale_that_no_optimizer_has_is_warned_of(tmp_path):
    model = BiasedModel()
    runner = make_runner(tmp_path, model, [BiasScaleHook(interval=5, draw_curve=False)])
    others = [value for name, value in model.named_parameters() if 'bias_scale' not in name]
    runner.optim_wrapper = dict(optimizer=torch.optim.AdamW(others, lr=0.1))
    runner.train()

    (warning,) = warnings_in(tmp_path)
    assert 'no optimizer has it' in warning
    assert len(rows_of(tmp_path)) == 5


class PlainModel(BiasedModel):
    def __init__(self) -> None:
        super().__init__()
        self.pts_bbox_head = nn.Identity()


def test_a_model_without_bias_is_refused(tmp_path):
    runner = make_runner(tmp_path, PlainModel(), [BiasScaleHook()])
    with pytest.raises(ValueError, match=r"BiasScaleHook needs one .*type='AttentionBiasCmtHead'"):
        runner.train()


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match='interval=0'):
        BiasScaleHook(interval=0)


def test_a_picture_that_cannot_be_drawn_costs_no_checkpoint(tmp_path):
    (tmp_path / 'bias_scale_curve.png').mkdir()
    make_runner(tmp_path, BiasedModel(), [BiasScaleHook(interval=5)], max_epochs=1).train()
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert 'could not be drawn' in read_log(tmp_path)


class SpoilHistory(Hook):
    def __init__(self, content: str | None) -> None:
        self.content = content

    def after_train_epoch(self, runner: Runner) -> None:
        history = Path(runner.work_dir) / 'bias_scale.csv'
        history.unlink()
        if self.content is not None:
            history.write_text(self.content)


@pytest.mark.parametrize('content', [None, 'rubbish\x00\n1,2,3\n'])
def test_a_history_that_is_spoiled_meanwhile_costs_neither_checkpoint_nor_end(tmp_path, content):
    hooks = [BiasScaleHook(interval=5), SpoilHistory(content)]
    make_runner(tmp_path, BiasedModel(), hooks, max_epochs=1).train()
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert "bias_scale.csv' could not be drawn" in read_log(tmp_path)
