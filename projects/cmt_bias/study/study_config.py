"""What a study is: a base config, weights to start from, variants as overrides, and seeds."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..problem import Problem
from ..runs.preflight import ProblemsFound, stop_on

STUDY_KEYS = {
    'name': 'names the study in its report; by default the name of its file',
    'title': 'heading of the report',
    'base_config': 'the training config that all variants change',
    'load_from': 'the checkpoint that every run starts from',
    'start_config': 'instead of load_from: the config that such a checkpoint is trained with',
    'overrides': 'dotted paths and values that hold for all variants',
    'variants': 'list of dicts with the keys of a variant',
    'reference': 'name of the variant that the others are compared with',
    'seeds': 'list of integers',
}
VARIANT_KEYS = {
    'name': 'names its folder and its rows: letters, digits, _, - and .',
    'title': 'what it is, for the reader',
    'config': 'a training config of its own in place of base_config',
    'overrides': 'dotted paths and values',
    'remove': 'dotted paths of entries to take out',
}
START_FOLDER = 'start'


@dataclass(frozen=True)
class Variant:
    """One way to train, the same for all seeds.

    Attributes:
        name: Names its folder.
        title: What it is, for the reader.
        config: Path of its training config.
        overrides: Dotted paths and values.
        remove: Dotted paths of entries that are taken out after the overrides.
    """

    name: str
    title: str
    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study as its file describes it.

    Attributes:
        name: Short name.
        title: Heading of the report.
        variants: In the order of the report.
        reference: Name of the variant that the others are compared with.
        seeds: Of each variant.
        overrides: Dotted paths and values that hold for all variants.
        load_from: Checkpoint that every run starts from; None where it is trained first.
        start_config: Config to train it with; None where there is a checkpoint.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    reference: str
    seeds: tuple[int, ...]
    overrides: Mapping[str, Any]
    load_from: str | None = None
    start_config: str | None = None


def read_study(path: str, options: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study's file.

    Args:
        path: The file, an mmengine config with the keys of :data:`STUDY_KEYS`. Files that it names
            are looked for from the current folder, then from the file's own.
        options: Dotted keys and values that override it, such as ``{'seeds': [0]}``.

    Returns:
        The study.

    Raises:
        ProblemsFound: If something is wrong with it: all that is, each with its remedy.
    """
    if not Path(path).is_file():
        remedy = 'name a study, such as configs/studies/learnable_scale.py'
        raise ProblemsFound([Problem(f"the study '{path}' does not exist", remedy)])
    cfg = Config.fromfile(path, import_custom_modules=False)
    cfg.merge_from_dict(dict(options or {}))
    content: dict[str, Any] = cfg.to_dict()
    stop_on(_unknown_keys(content, STUDY_KEYS, f"the study '{path}'"))
    stop_on(_shape_problems(content, path))
    folder = Path(path).parent
    stop_on(_problems(content, path, folder))
    return _study(content, Path(path).stem, folder)


def _study(content: Mapping[str, Any], stem: str, folder: Path) -> Study:
    variants = tuple(
        Variant(
            name=variant['name'],
            title=variant.get('title', variant['name']),
            config=_find(variant.get('config', content.get('base_config', '')), folder),
            overrides=variant.get('overrides', {}),
            remove=tuple(variant.get('remove', ())),
        )
        for variant in content['variants']
    )
    name = content.get('name', stem)
    load_from, start = content.get('load_from'), content.get('start_config')
    return Study(
        name=name,
        title=content.get('title', name),
        variants=variants,
        reference=content.get('reference', variants[0].name),
        seeds=tuple(content['seeds']),
        overrides=content.get('overrides', {}),
        load_from=None if load_from is None else _find(load_from, folder),
        start_config=None if start is None else _find(start, folder),
    )


def _find(path: str, folder: Path) -> str:
    """A file as it is named, or as it is named from the study's folder."""
    beside = folder / path
    return str(beside) if not Path(path).is_file() and beside.is_file() else path


def _unknown_keys(given: Mapping[str, Any], known: Mapping[str, str], where: str) -> list[Problem]:
    remedy = 'known keys: ' + '; '.join(f'{key} ({what})' for key, what in known.items())
    return [
        Problem(f"{where} has the unknown key '{key}'", remedy) for key in given.keys() - known
    ]


def _shape_problems(content: Mapping[str, Any], path: str) -> list[Problem]:
    """Wrong or missing lists, without which nothing else can be looked at."""
    problems = []
    variants: Any = content.get('variants')
    seeds: Any = content.get('seeds')
    if not _is_list(variants) or not all(
        isinstance(item, Mapping) and 'name' in item for item in variants
    ):
        remedy = "variants = [dict(name='fixed', overrides={...}), ...]"
        problems.append(Problem(f"'{path}': variants must be a list of dicts with a name", remedy))
    if not _is_list(seeds) or not all(isinstance(seed, int) for seed in seeds):
        problems.append(
            Problem(f"'{path}': seeds must be a list of integers", 'seeds = [0, 1, 2]')
        )
    return problems


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _problems(content: Mapping[str, Any], path: str, folder: Path) -> list[Problem]:
    """Everything else that can be wrong."""
    variants = content['variants']
    names = [variant['name'] for variant in variants]
    problems = [
        problem
        for variant in variants
        for problem in _variant_problems(variant, content, path, folder)
    ]
    for name, count in Counter(names).items():
        if count > 1:
            what = f"'{path}': {count} variants have the name '{name}'"
            problems.append(Problem(what, 'give each variant a name of its own'))
    for seed, count in Counter(content['seeds']).items():
        if count > 1:
            problems.append(Problem(f"'{path}': seed {seed} is given {count} times", 'once each'))
    reference = content.get('reference', names[0])
    if reference not in names:
        what = f"'{path}': reference='{reference}' is none of the variants"
        problems.append(Problem(what, f'choose one of {", ".join(names)}'))
    return problems + _start_problems(content, path, folder)


def _variant_problems(
    variant: Mapping[str, Any], content: Mapping[str, Any], path: str, folder: Path
) -> list[Problem]:
    name = variant['name']
    problems = _unknown_keys(variant, VARIANT_KEYS, f"'{path}': the variant '{name}'")
    if not re.fullmatch(r'\w[\w.-]*', str(name)) or name == START_FOLDER:
        what = f"'{path}': the variant's name '{name}' cannot name its folder"
        remedy = f"use letters, digits, _, - and ., and not '{START_FOLDER}'"
        problems.append(Problem(what, remedy))
    config = variant.get('config', content.get('base_config'))
    if config is None:
        what = f"'{path}': the variant '{name}' has no config"
        problems.append(Problem(what, 'set base_config, or config in the variant'))
    elif not Path(_find(config, folder)).is_file():
        what = f"'{path}': the config '{config}' of the variant '{name}' does not exist"
        problems.append(Problem(what, "correct base_config or the variant's config"))
    return problems


def _start_problems(content: Mapping[str, Any], path: str, folder: Path) -> list[Problem]:
    """What is wrong with the weights that the runs start from."""
    load_from, start = content.get('load_from'), content.get('start_config')
    if (load_from is None) == (start is None):
        remedy = (
            'load_from = CHECKPOINT, or load_from = None with start_config = the config that the '
            'checkpoint is to be trained with'
        )
        both = 'both load_from and start_config' if start else 'neither load_from nor start_config'
        return [Problem(f"'{path}' gives {both}", remedy)]
    if start is not None and not Path(_find(start, folder)).is_file():
        what = f"'{path}': start_config='{start}' does not exist"
        return [Problem(what, 'correct the path')]
    if load_from is not None and not Path(_find(load_from, folder)).is_file():
        what = f"'{path}': the checkpoint load_from='{load_from}' does not exist"
        remedy = (
            'train it with tools/train.py, name another with --cfg-options load_from=FILE, or let '
            'this tool train it: --cfg-options load_from=None start_config=CONFIG'
        )
        return [Problem(what, remedy)]
    return []
