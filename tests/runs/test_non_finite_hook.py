"""The first number that is none stops a run, and the sample or parameter it came from is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import Dataset

from cmt_bias.runs import non_finite_hook
from cmt_bias.runs.non_finite_hook import NonFiniteError, NonFiniteHook

NAN = float('nan')


class Samples(Dataset):
    """Eight samples; one may have a bad number in its inputs or labels."""

    def __init__(self, bad_input: float = 1.0, bad_label: float = 1.0) -> None:
        self.bad_input, self.bad_label = bad_input, bad_label

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        points = torch.full((3,), 1.0 + index)
        label = 1.0
        if index == 5:
            points[1], label = self.bad_input, self.bad_label
        sample = BaseDataElement(
            metainfo={'token': f'token{index}', 'calibration': np.eye(2)},
            velocity=torch.tensor([label]),
        )
        return {'inputs': {'points': points}, 'data_samples': sample}


class Root(nn.Module):
    """A square root, whose gradient at zero is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, features: Tensor) -> Tensor:
        return ((features * self.weight) ** 2).sum(-1).sqrt()


class Detector(BaseModel):
    """Registers its head before its backbone, through which the data goes first."""

    def __init__(self) -> None:
        super().__init__()
        self.bbox_head = nn.Linear(4, 1)
        self.root = Root()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.zero_features = False

    def forward(self, inputs: dict, data_samples: list, mode: str) -> dict | list:
        features = self.backbone(torch.stack(inputs['points']))
        if self.zero_features:
            features = features * 0
        scores = self.bbox_head(features)
        if not torch.isfinite(scores).all() and mode == 'loss':
            raise ValueError('another layer is blamed')
        if mode != 'loss':
            return [BaseDataElement(scores=score) for score in scores]
        velocity = torch.cat([sample.velocity for sample in data_samples])
        return {
            'loss': (scores.squeeze(1) - velocity).square().mean() + self.root(features).mean()
        }


class Breaks(Hook):
    """Does something to the model before the third iteration."""

    priority = 'VERY_LOW'

    def __init__(self, action) -> None:
        self.action = action

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        if batch_idx == 2:
            self.action(runner.model)


class NoMetric(BaseMetric):
    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {'n': len(results)}


def make_runner(folder: Path, dataset: Dataset | None = None, action=None, **options) -> Runner:
    torch.manual_seed(0)
    loader = {
        'dataset': dataset or Samples(),
        'batch_size': 2,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'collate_fn': {'type': 'pseudo_collate'},
    }
    return Runner(
        Detector(),
        str(folder),
        train_dataloader=loader,
        test_dataloader=loader,
        test_cfg={},
        test_evaluator=[NoMetric()],
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.01}, **options},
        default_hooks={'checkpoint': {'type': 'ResumableCheckpointHook', 'interval': 1}},
        custom_hooks=[NonFiniteHook()] + ([Breaks(action)] if action else []),
        experiment_name=folder.name,
        log_level='WARNING',
    )


def set_nan(name: str):
    def action(model: nn.Module) -> None:
        dict(model.named_parameters())[name].data.view(-1)[0] = NAN

    return action


def test_finite_training_is_left_alone(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    assert (tmp_path / 'epoch_2.pth').exists()
    assert not runner.model._forward_hooks


@pytest.mark.parametrize('clip', [{}, {'clip_grad': {'max_norm': 1.0}}])
@pytest.mark.parametrize(
    ('dataset', 'name'),
    [
        (Samples(bad_label=NAN), 'data_samples[1].velocity'),
        (Samples(bad_label=float('inf')), 'data_samples[1].velocity'),
        (Samples(bad_input=float('inf')), None),  # tanh makes it finite, its gradient is not
    ],
)
def test_bad_input_is_named_with_its_sample(clip, dataset, name, tmp_path):
    with pytest.raises(NonFiniteError) as stop:
        make_runner(tmp_path, dataset, **clip).train()
    assert f"The input '{name or 'inputs.points[1]'}' is not finite, of sample 1" in str(
        stop.value
    )
    assert 'token5' in str(stop.value)
    assert 'iteration 3' in str(stop.value)
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('name', ['backbone.0.weight', 'backbone.0.bias', 'bbox_head.weight'])
def test_bad_parameter_is_named_though_another_part_fails(name, tmp_path):
    with pytest.raises(ValueError, match='another layer is blamed'):
        make_runner(tmp_path, action=set_nan(name)).train()
    (log,) = tmp_path.rglob('*.log')
    assert f"The parameter '{name}' is not finite" in log.read_text()
    assert not list(tmp_path.glob('*.pth'))


def test_first_bad_parameter_is_that_which_the_data_meets_first(tmp_path):
    def action(model: nn.Module) -> None:
        set_nan('root.weight')(model)
        set_nan('backbone.0.weight')(model)

    with pytest.raises(ValueError):
        make_runner(tmp_path, action=action).train()
    (log,) = tmp_path.rglob('*.log')
    assert "The parameter 'backbone.0.weight' is not finite" in log.read_text()


@pytest.mark.parametrize('clip', [{}, {'clip_grad': {'max_norm': 1.0}}])
def test_gradient_is_named_before_it_spoils_the_parameters(clip, tmp_path):
    runner = make_runner(
        tmp_path, action=lambda model: setattr(model, 'zero_features', True), **clip
    )
    with pytest.raises(NonFiniteError, match=r"the gradient of the parameter 'root\.weight'"):
        runner.train()
    assert all(torch.isfinite(parameter).all() for parameter in runner.model.parameters())


def test_error_that_has_nothing_to_do_with_numbers_is_left_alone(tmp_path):
    def action(model: nn.Module) -> None:
        model.backbone[0] = nn.Linear(2, 4)

    with pytest.raises(RuntimeError, match='shapes'):
        make_runner(tmp_path, action=action).train()
    (log,) = tmp_path.rglob('*.log')
    assert 'not finite' not in log.read_text()


def test_evaluation_stops_at_an_output_that_is_none_and_names_the_sample(tmp_path):
    with pytest.raises(NonFiniteError, match='the evaluation.*token5'):
        make_runner(tmp_path, Samples(bad_input=NAN)).test()
    make_runner(tmp_path / 'good').test()


def test_norms_of_gradients_on_several_devices_are_looked_at_on_the_first(monkeypatch):
    """The meta device stands for a second GPU: it mixes with no other, either."""
    parameters = [nn.Parameter(torch.ones(2, device=device)) for device in ('meta', 'cpu')]
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    norms: list[Tensor] = []
    monkeypatch.setattr(non_finite_hook, 'is_finite', lambda norm: not norms.append(norm))
    NonFiniteHook()._before_step(torch.optim.SGD(parameters), None, None)
    assert norms[0].shape == (2,) and norms[0].is_meta
