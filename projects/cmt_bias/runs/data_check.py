"""Is the data that a config names all there? Asked before a run, so that it does not end in one.

Looks at info files, at a few of the files they name, at the tables of the official evaluation and
at the database for pasting. What a run does not use is not looked for.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import DATASETS
from mmengine.config import Config
from nuscenes.utils.splits import create_splits_scenes

from ..config_type import type_name
from ..datasets.data_files import (
    SensorFile,
    UsedData,
    check_class_balance,
    check_frames,
    faults_of_files,
    is_local,
    read_info_file,
    sensor_files,
    used_data,
)
from ..datasets.nuscenes_layout import EVALUATED_SPLITS, NUSCENES_TABLES, scenes_of_samples
from ..datasets.object_database import check_database
from ..metrics.metric_configs import nuscenes_metric_configs
from ..problem import Problem, Severity

Split = Literal['train', 'val', 'test']
Depth = Literal['sampled', 'all']
SPLITS: tuple[Split, ...] = ('train', 'val', 'test')
PREDICT = 'format_only=True and jsonfile_prefix=<folder> of the evaluator write a submission'


def check_config_data(
    cfg: Config,
    splits: Sequence[Split] = SPLITS,
    sampled_frames: int = 4,
    depth: Depth = 'sampled',
    evaluates: bool = True,
) -> list[Problem]:
    """Look for the data that a config's dataloaders and evaluators name; each problem once.

    Splits without a dataloader are passed over. ``evaluates`` tells whether metrics are to be
    computed; for the others see :func:`check_dataset`.
    """
    problems: dict[Problem, None] = {}
    train = cfg.get('train_cfg') or {}
    length = train.get('max_epochs') or train.get('max_iters') or float('inf')
    evaluated = ('val', 'test') if train.get('val_begin', 1) <= length else ('test',)
    for split in splits:
        dataloader = cfg.get(f'{split}_dataloader') or {}
        outer, batch_size = dataloader.get('dataset'), dataloader.get('batch_size', 1)
        evaluator = cfg.get(f'{split}_evaluator') if evaluates and split in evaluated else None
        metrics, balanced = nuscenes_metric_configs(evaluator), _is_balanced(outer)
        for dataset in innermost_datasets(outer):
            found = check_dataset(dataset, sampled_frames, depth, batch_size, balanced, metrics)
            problems.update(dict.fromkeys(found))
    return list(problems)


def innermost_datasets(dataset: Any) -> list[MutableMapping]:
    """The datasets inside wrappers such as ``CBGSDataset`` or ``ConcatDataset``.

    None of what is no config, as a dataset that is built already.
    """
    if not isinstance(dataset, MutableMapping):
        return []
    if 'datasets' in dataset:
        return [inner for part in dataset['datasets'] for inner in innermost_datasets(part)]
    return innermost_datasets(dataset['dataset']) if 'dataset' in dataset else [dataset]


def _is_balanced(dataset: Any) -> bool:
    if not isinstance(dataset, Mapping):
        return False
    return type_name(dataset) == 'CBGSDataset' or _is_balanced(dataset.get('dataset'))


def _check_unknown(dataset: Mapping) -> Problem | None:
    """None of a ``NuScenesDataset`` of local files; of others: is their folder there, if local?"""
    kind = dataset.get('type', NuScenesDataset)
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    is_here = is_local(dataset.get('backend_args'))
    if isinstance(kind, type) and issubclass(kind, NuScenesDataset) and is_here:
        return None
    root, name = str(dataset.get('data_root') or '.'), type_name(dataset)
    if not is_here or '://' in root:  # mmengine tells a store by the address, too
        what = f"'{root}' is in a store: whether its files are there was not looked at"
    elif Path(root).exists():
        what = f"{name} is no NuScenesDataset: what it needs in '{root}' was not looked at"
    else:
        what = f"the data folder '{Path(root)}' of the {name} does not exist"
        return Problem(what, 'put the data there, or set data_root in the config')
    return Problem(what, severity='note')


def check_dataset(
    dataset: Mapping,
    sampled_frames: int = 4,
    depth: Depth = 'sampled',
    batch_size: int = 1,
    balanced: bool = False,
    metrics: Sequence[Mapping] = (),
) -> list[Problem]:
    """Look at the info file, sensor files and database for pasting of a ``NuScenesDataset``.

    Of another dataset only the folder is looked for, of one that is not read from local files
    nothing; a note says so.

    Args:
        dataset: Its config.
        sampled_frames: Frames, spread over the info file, whose sensor files must exist.
        depth: 'all': read every file of every frame instead, and list all that are bad.
        batch_size: Frames that are put together.
        balanced: Whether a ``CBGSDataset`` draws from it.
        metrics: Of the official evaluation, looked at if all else is sound.
    """
    if unknown := _check_unknown(dataset):
        return [unknown]
    root = Path(dataset.get('data_root') or '.')
    info_path, used = str(root / dataset['ann_file']), used_data(dataset)
    if not root.is_dir():
        remedy = (
            'unpack nuScenes there, or set data_root in the config; synthetic data: '
            'python tools/create_synthetic_nuscenes.py --out data/synthetic'
        )
        return [Problem(f"the data folder '{root}' does not exist", remedy)]
    prefix = dict(dataset.get('data_prefix') or {}) if used.from_here else {}
    is_used = dict(pts=used.points, sweeps=used.sweeps)
    folders = {root / v for key, v in prefix.items() if v and is_used.get(key, used.images)}
    if missing := sorted(folder for folder in folders if not folder.is_dir()):
        remedy = f"unpack nuScenes into '{root}', or correct data_prefix of the config"
        return [Problem(f"the data folder '{path}' does not exist", remedy) for path in missing]
    infos = read_info_file(info_path)
    if isinstance(infos, Problem):
        return [infos]
    if problems := check_frames(infos, info_path, used, batch_size):
        return problems
    if balanced:
        problems = check_class_balance(infos, info_path, dataset)
    if used.points or used.images:
        frames = infos['data_list']
        problems += _check_files(dataset, used, info_path, frames, sampled_frames, depth)
    for step in dataset.get('pipeline', ()):
        if isinstance(step, Mapping) and step.get('db_sampler') is not None:
            problems += check_database(step, read_all=depth == 'all')
    if all(problem.severity == 'note' for problem in problems):
        checks = (_check_metric(metric, dataset, info_path, infos) for metric in metrics)
        problems += filter(None, checks)
    return problems


def _check_files(
    dataset: Mapping,
    used: UsedData,
    info_path: str,
    frames: Sequence[Mapping],
    sampled_frames: int,
    depth: Depth,
) -> list[Problem]:
    """Whether the files that frames name exist or, looked at in depth, can be read."""
    if not used.from_here:
        what = f"the files that '{info_path}' names are in a store: they were not looked at"
        return [Problem(what, severity='note')]
    # mmdet3d's own: a class of the user's may ask for other arguments.
    reader = NuScenesDataset(
        data_root=dataset.get('data_root'),
        ann_file=dataset['ann_file'],
        data_prefix=dict(pts='', sweeps='') | dict(dataset.get('data_prefix') or {}),
        modality=dict(use_lidar=used.points, use_camera=used.images),
        lazy_init=True,
        test_mode=True,
        load_eval_anns=False,
    )
    # A training that leaves bad frames out only wants to know of them.
    skipped = dataset.get('skip_bad_frames') and not dataset.get('test_mode')
    severity: Severity = 'warning' if skipped else 'error'
    if depth == 'sampled':
        step = max(1, len(frames) // max(1, sampled_frames))
        frames = frames[::step][:sampled_frames]
    named: Iterable[tuple[SensorFile, str]] = (
        (file, str(frame.get('token', number)))
        for number, frame in enumerate(frames)
        for file in sensor_files(reader.parse_data_info(frame), used)
    )
    if depth == 'all':
        named = list(named)
        first_frame = {file.path: token for file, token in reversed(named)}
        mend = 'copy or unpack it again, or leave it out: skip_bad_frames=True of the dataset'
        return [
            Problem(f"'{path}' {fault} (frame {first_frame[path]})", mend, severity)
            for path, fault in faults_of_files(file for file, _ in named).items()
        ]
    for file, _ in named:
        if not file.path.is_file():
            what = f"'{info_path}' names '{file.path}', which does not exist"
            remedy = (
                f"check data_root='{dataset.get('data_root')}' and data_prefix in the config, or "
                'unpack nuScenes there; if it has moved: tools/create_data.py for new info files'
            )
            return [Problem(what, remedy, severity)]
    return []


def _check_metric(
    metric: Mapping, dataset: Mapping, info_path: str, infos: Mapping
) -> Problem | None:
    """Whether what the official evaluation needs is there, for a dataset whose info file is."""
    if Path(metric['ann_file']).resolve() != Path(info_path).resolve():
        what = f"the evaluator reads '{metric['ann_file']}', but its dataset '{info_path}'"
        return Problem(what, 'set ann_file of evaluator and dataset to the same file')
    if metric.get('format_only'):  # writes the detections and evaluates nothing
        if metric.get('jsonfile_prefix'):
            return None
        what = 'the evaluator has format_only=True, but no jsonfile_prefix'
        return Problem(what, 'set jsonfile_prefix to the folder of the file of detections')
    version = infos['metainfo'].get('version', 'a dataset of unknown version')
    # mmdet3d's NuScenesDataset takes its own default, not the info file's version.
    assumed = dict(dataset.get('metainfo') or {}).get('version', 'v1.0-trainval')
    if assumed != version:
        what = f"'{info_path}' was made from {version}, but the dataset's config says {assumed}"
        remedy = f"set metainfo=dict(version='{version}', ...) in the dataset's config"
        return Problem(what, remedy)
    if version not in EVALUATED_SPLITS:
        what = f"'{info_path}' was made from {version}, which has no annotations to evaluate with"
        return Problem(what, f'evaluate on v1.0-trainval or v1.0-mini; {PREDICT}')
    frames, indices = infos['data_list'], dataset.get('indices')
    if indices is not None:
        frames = frames[:indices] if isinstance(indices, int) else [frames[i] for i in indices]
    tokens = {frame['token'] for frame in frames}
    return _check_tables(Path(metric['data_root']), version, tokens, info_path)


def _check_tables(root: Path, version: str, tokens: set[str], info_path: str) -> Problem | None:
    """Whether the tables are there, and a dataset has exactly the samples that are evaluated.

    Otherwise it ends with "Samples in split doesn't match samples in predictions", after the
    whole of the testing.
    """
    folder, split = root / version, EVALUATED_SPLITS[version]
    if not folder.is_dir():
        remedy = (
            f"set data_root to the folder that holds '{version}', or unpack nuScenes' metadata "
            'there (synthetic data: tools/create_synthetic_nuscenes.py)'
        )
        return Problem(f"'{folder}' with the nuScenes tables does not exist", remedy)
    missing = [name for name in NUSCENES_TABLES if not (folder / f'{name}.json').is_file()]
    if missing:
        what = f"'{folder}' lacks the tables {', '.join(missing)}"
        return Problem(what, f"unpack nuScenes' metadata of {version} into '{root}' again")
    evaluated, scenes = set(create_splits_scenes()[split]), scenes_of_samples(folder)
    wanted = {token for token, scene in scenes.items() if scene['name'] in evaluated}
    if tokens == wanted:
        return None
    what = (
        f"'{info_path}' has {len(tokens)} samples, of which {len(tokens & wanted)} are among the "
        f'{len(wanted)} of the official split {split} that is evaluated'
    )
    remedy = (
        f'evaluate with the info file of {version} made by `python tools/create_data.py nuscenes '
        f'--root-path {root} --out-dir {root} --extra-tag nuscenes --version {version}`'
    )
    return Problem(what, f'{remedy}; {PREDICT}')
