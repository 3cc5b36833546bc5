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
from .environment_check import Answer
from .preflight import ProblemsFound
from .run_options import load_config


def check_config(
    path: str,
    checkpoint: str | None = None,
    overrides: Sequence[str] | None = None,
    sampled_frames: int = 20,
    depth: Depth = 'sampled',
) -> list[tuple[str, Answer]]:
    """Look at all that a config names, and at a checkpoint that is to fit its model.

    ``overrides`` are ``key=value`` settings; for ``sampled_frames`` and ``depth`` see
    :func:`~cmt_bias.runs.data_check.check_dataset`.

    Returns:
        Subject and answer of each check.
    """
    pairs = [text.split('=', 1) for text in overrides or ()]
    try:
        cfg = load_config(path, {key: DictAction._parse_iterable(value) for key, value in pairs})
    except ProblemsFound as error:
        return [('config', problem) for problem in error.problems]
    except Exception as error:  # whatever a config's own code raises is a finding
        what = f'{type(error).__name__}: {error}'
        return [('config', Problem(what, 'correct the config file, or --cfg-options'))]
    register_all_modules(init_default_scope=True)
    answers = list(_check_data(cfg, sampled_frames, depth))
    model = None
    try:
        model = MODELS.build(cfg.model)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        answers.append(('model', f'{type(model).__name__}, {millions:.1f} million parameters'))
    except Exception as error:  # any error of building is the finding
        remedy = 'correct the model: the message names the class and the argument'
        answers.append(('model', Problem(f'{type(error).__name__}: {error}', remedy)))
    if cfg.get('load_from') is not None:
        skipped = cfg.get('load_from_skip') or ()
        answers.append(('load_from', _check_weights(model, cfg.load_from, False, skipped)))
    if checkpoint is not None:
        answers.append(('checkpoint', _check_weights(model, checkpoint, True)))
    return answers


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
    model: nn.Module | None, path: str, need_all: bool, skipped: Sequence[str] = ()
) -> Answer:
    """Whether a checkpoint fits a model, which could not be built if it is None."""
    if problems := check_checkpoint_file(path):
        return problems[0]
    if model is None:
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
