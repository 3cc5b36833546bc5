"""What ``tools/doctor.py`` looks at when it is given a config: model, data and checkpoint."""

import pickle
from collections.abc import Mapping, Sequence
from typing import Literal

from mmdet3d.registry import MODELS
from mmdet3d.utils import register_all_modules
from mmengine.config import Config, DictAction
from torch import nn

from cmt_bias.datasets.database_check import command_that_makes_it, has_image_crops

from ..checkpoints.safe_loading import CheckpointError
from ..problem import Problem
from .checkpoint_check import check_checkpoint_file, report_checkpoint
from .data_check import check_dataset, check_evaluation, innermost_datasets
from .environment_check import CheckResult, State
from .preflight import ProblemsFound
from .run_options import load_config

BUILD_REMEDY = 'correct the model in the config: the message names the class and the argument'


def check_config(
    path: str,
    checkpoint: str | None = None,
    overrides: Sequence[str] | None = None,
    sampled_frames: int = 20,
) -> list[CheckResult]:
    """Look at all that a config names.

    Args:
        path: The config file.
        checkpoint: A checkpoint that is to fit its model.
        overrides: ``key=value`` settings that override the config.
        sampled_frames: Frames of each info file whose sensor files are looked for.

    Returns:
        Rows for the doctor's table.
    """
    try:
        cfg = load_config(path, parse_overrides(overrides))
    except ProblemsFound as error:
        return results_of('config', error.problems)
    except Exception as error:  # whatever a config's own code raises is a finding
        remedy = 'correct the config file, or --cfg-options'
        return [CheckResult('config', 'error', f'{type(error).__name__}: {error}', remedy)]
    register_all_modules(init_default_scope=True)
    results = check_data(cfg, sampled_frames)
    model, row = build_model(cfg)
    results.append(row)
    load_from = cfg.get('load_from')
    if load_from is not None:
        results += check_weights(model, load_from, 'load_from', must_be_complete=False)
    if checkpoint is not None:
        results += check_weights(model, checkpoint, 'checkpoint', must_be_complete=True)
    return results


def parse_overrides(overrides: Sequence[str] | None) -> dict:
    """``key=value`` strings as mmengine's ``--cfg-options`` reads them."""
    pairs = [text.split('=', 1) for text in overrides or ()]
    return {key: DictAction._parse_iterable(value) for key, value in pairs}


def results_of(
    subject: str, problems: Sequence[Problem], fine: str = '', state: State = 'error'
) -> list[CheckResult]:
    """One row for each problem, or one that says that all is well."""
    if not problems:
        return [CheckResult(subject, 'ok', fine)]
    return [CheckResult(subject, state, problem.what, problem.remedy) for problem in problems]


def check_data(cfg: Config, sampled_frames: int) -> list[CheckResult]:
    """Rows about the data of each split, and about what their evaluation needs."""
    results = []
    splits: tuple[Literal['train', 'val', 'test'], ...] = ('train', 'val', 'test')
    for split in splits:
        dataloader = cfg.get(f'{split}_dataloader')
        if dataloader is None:
            results.append(CheckResult(f'{split} data', 'note', f'no {split}_dataloader'))
            continue
        for dataset in innermost_datasets(dataloader['dataset']):
            problems = check_dataset(dataset, sampled_frames)
            fine = f"'{dataset['ann_file']}' and the files it names in {sampled_frames} frames"
            results += results_of(f'{split} data', problems, fine)
            results += check_sweep_loader(dataset.get('pipeline', ()), f'{split} data')
            if split == 'train':
                results += check_image_crops(dataset.get('pipeline', ()))
            elif not problems:
                found = check_evaluation(cfg.get(f'{split}_evaluator'), dataset)
                fine = 'official tables and split are there'
                results += results_of(f'{split} evaluation', found, fine)
    return results


def check_sweep_loader(pipeline: Sequence[Mapping], subject: str) -> list[CheckResult]:
    """A row if sweeps are loaded by mmdet3d's own transform, which misplaces them in turns."""
    if not any(step['type'] == 'LoadPointsFromMultiSweeps' for step in pipeline):
        return []
    finding = 'LoadPointsFromMultiSweeps misplaces the sweeps of a turning vehicle'
    return [CheckResult(subject, 'warning', finding, "set type='LoadAlignedSweeps' for this step")]


def check_image_crops(pipeline: Sequence[Mapping]) -> list[CheckResult]:
    """A row if objects are to be pasted into images, but their database has points only."""
    for step in pipeline:
        sampler = step.get('db_sampler')
        if sampler is None or not step.get('sample_2d'):
            continue
        try:
            with open(sampler['info_path'], 'rb') as file:
                infos = pickle.load(file)
        except (OSError, pickle.UnpicklingError, EOFError):
            continue  # a row of its own says so
        if not has_image_crops(infos):
            finding = f"'{sampler['info_path']}' has no image crops: only points are pasted"
            remedy = f'to paste into images: {command_that_makes_it(sampler.get("data_root"))}'
            return [CheckResult('pasting', 'warning', finding, remedy)]
        return [CheckResult('pasting', 'ok', f"'{sampler['info_path']}', with image crops")]
    return []


def build_model(cfg: Config) -> tuple[nn.Module | None, CheckResult]:
    """The config's model, without its pretrained weights, and a row about it."""
    try:
        model = MODELS.build(cfg.model)
    except Exception as error:  # any error of building is the finding
        return None, CheckResult(
            'model', 'error', f'{type(error).__name__}: {error}', BUILD_REMEDY
        )
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    finding = f'{type(model).__name__}, {millions:.1f} million parameters'
    return model, CheckResult('model', 'ok', finding)


def check_weights(
    model: nn.Module | None, path: str, subject: str, must_be_complete: bool
) -> list[CheckResult]:
    """Rows about a checkpoint: one for each submodule whose keys differ."""
    problems = check_checkpoint_file(path)
    if problems or model is None:
        return results_of(subject, problems, f"'{path}' exists (no model to compare it with)")
    try:
        report = report_checkpoint(model, path)
    except CheckpointError as error:
        what, _, remedy = str(error).partition('Remedy: ')
        return [CheckResult(subject, 'error', what.strip(), remedy)]
    if report.is_complete:
        return [CheckResult(subject, 'ok', f"'{path}': all {report.num_matched} keys match")]
    state: State = 'error' if must_be_complete or report.is_other_model else 'note'
    remedy = 'take the config that the checkpoint was trained with' if state == 'error' else ''
    return [
        CheckResult(
            f'{subject}: {part.name}',
            state,
            f'{len(part.matched)} matched, {len(part.missing)} missing, {len(part.unexpected)} '
            f'unexpected, {len(part.mismatched)} of other shape\n{part.describe_differences()}',
            remedy,
        )
        for part in report.submodules
        if part.describe_differences()
    ]
