"""What ``tools/doctor.py`` looks at when it is given a config: model, data and checkpoint."""

from collections.abc import Iterator, Sequence

from mmdet3d.registry import MODELS
from mmdet3d.utils import register_all_modules
from mmengine.config import Config, DictAction
from torch import nn

from ..checkpoints.safe_loading import CheckpointError
from ..config_type import type_name
from ..problem import Problem
from .checkpoint_check import check_checkpoint_file, report_checkpoint
from .data_check import SPLITS, Depth, check_config_data, innermost_datasets
from .environment_check import Answer, ask
from .preflight import ProblemsFound
from .run_options import load_config


def check_config(
    path: str,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    sampled_frames: int = 20,
    depth: Depth = 'sampled',
) -> Iterator[tuple[str, Answer]]:
    """Subject and answer of each check of what a config names, and of a checkpoint for its model.

    ``overrides`` are ``key=value`` settings; for ``sampled_frames`` and ``depth`` see
    :func:`~cmt_bias.runs.data_check.check_dataset`.
    """
    try:
        pairs = [text.split('=', 1) for text in overrides]
        cfg = load_config(path, {key: DictAction._parse_iterable(value) for key, value in pairs})
    except ProblemsFound as error:
        yield from (('config', problem) for problem in error.problems)
        return
    except Exception as error:  # whatever a config's own code raises is a finding
        what = f'{type(error).__name__}: {error}'
        yield 'config', Problem(what, 'correct the config file, or --cfg-options')
        return
    register_all_modules(init_default_scope=True)
    yield from _check_data(cfg, sampled_frames, depth)
    remedy = 'correct the model: the message names the class and the argument'
    model: nn.Module | Problem = ask(lambda: MODELS.build(cfg.model), remedy)
    if isinstance(model, Problem):
        yield 'model', model
    else:
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        yield 'model', f'{type(model).__name__}, {millions:.1f} million parameters'
    if cfg.get('load_from') is not None:
        skipped = cfg.get('load_from_skip') or ()
        yield 'load_from', _check_weights(model, cfg.load_from, False, skipped)
    if checkpoint is not None:
        yield 'checkpoint', _check_weights(model, checkpoint, True)


def _check_data(cfg: Config, sampled_frames: int, depth: Depth) -> Iterator[tuple[str, Answer]]:
    looked_at = 'every frame' if depth == 'all' else f'{sampled_frames} frames'
    for split in SPLITS:
        subject, dataloader = f'{split} data', cfg.get(f'{split}_dataloader')
        if dataloader is None:
            yield subject, Problem(f'no {split}_dataloader', severity='note')
            continue
        problems = check_config_data(cfg, (split,), sampled_frames, depth)
        yield from ((subject, problem) for problem in problems)
        for dataset in innermost_datasets(dataloader['dataset']):
            if not problems:
                evaluation = ', and what the evaluation needs' * (split != 'train')
                files = f"'{dataset['ann_file']}' and the files it names in {looked_at}"
                yield subject, files + evaluation
            for step in dataset.get('pipeline', ()):
                if type_name(step) == 'LoadPointsFromMultiSweeps':  # mmdet3d's own
                    what = f'{type_name(step)} misplaces the sweeps of a turning vehicle'
                    remedy = "set type='LoadAlignedSweeps' for this step"
                    yield subject, Problem(what, remedy, 'warning')


def _check_weights(
    model: nn.Module | Problem, path: str, need_all: bool, skipped: Sequence[str] = ()
) -> Answer:
    """Whether a checkpoint fits a model, or what there is in its place."""
    if problems := check_checkpoint_file(path):
        return problems[0]
    if isinstance(model, Problem):
        return f"'{path}' exists (no model to compare it with)"
    try:
        report = report_checkpoint(model, path, skipped)
    except CheckpointError as error:
        return Problem.of_error(error)
    if report.is_complete:
        return f"'{path}': all {len(report.matched)} keys match"
    if need_all:
        return Problem(report.describe(), 'take the config that the checkpoint was trained with')
    return Problem(report.describe(), severity='note')
