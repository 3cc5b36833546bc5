"""Is the data that a config names all there? Asked before a run, so that it does not end in one.

Looks at info files, at a few of the files they name, at the tables of the official evaluation and
at the database for pasting. Nothing is loaded that the size of the dataset would make slow, except
the info files themselves.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.fileio import load
from nuscenes.utils.splits import create_splits_scenes

from cmt_bias.datasets.database_check import check_database
from cmt_bias.datasets.info_file_check import check_data_folders, check_info_file

from ..metrics.metric_configs import nuscenes_metric_configs
from ..problem import Problem

Split = Literal['train', 'val', 'test']

EVALUATED_SPLITS = {'v1.0-mini': 'mini_val', 'v1.0-trainval': 'val'}
"""Version of the tables -> split which mmdet3d's ``NuScenesMetric`` evaluates."""

NUSCENES_TABLES = (
    'attribute',
    'calibrated_sensor',
    'category',
    'ego_pose',
    'instance',
    'log',
    'map',
    'sample',
    'sample_annotation',
    'sample_data',
    'scene',
    'sensor',
    'visibility',
)


def check_config_data(
    cfg: Config, splits: Sequence[Split] = ('train', 'val', 'test'), sampled_frames: int = 4
) -> list[Problem]:
    """Look for the data that a config names.

    Args:
        cfg: A whole config; splits without a dataloader are passed over.
        splits: Dataloaders and evaluators to look at.
        sampled_frames: Frames of each info file whose sensor files are looked for.

    Returns:
        What is wrong, each problem once; empty if nothing is.
    """
    problems: dict[Problem, None] = {}
    for split in splits:
        dataloader = cfg.get(f'{split}_dataloader')
        if dataloader is None:
            continue
        for dataset in innermost_datasets(dataloader['dataset']):
            found = check_dataset(dataset, sampled_frames)
            if not found and split != 'train':
                found = check_evaluation(cfg.get(f'{split}_evaluator'), dataset)
            problems.update(dict.fromkeys(found))
    return list(problems)


def innermost_datasets(dataset: Mapping) -> list[Mapping]:
    """The datasets inside wrappers such as ``CBGSDataset`` or ``ConcatDataset``."""
    if 'datasets' in dataset:
        return [inner for part in dataset['datasets'] for inner in innermost_datasets(part)]
    if 'dataset' in dataset:
        return innermost_datasets(dataset['dataset'])
    return [dataset]


def check_dataset(dataset: Mapping, sampled_frames: int = 4) -> list[Problem]:
    """Look for one dataset's info file, sensor files and database for pasting.

    Args:
        dataset: Config of a dataset of mmdet3d's ``Det3DDataset`` family.
        sampled_frames: Frames, spread over the info file, whose sensor files are looked for.

    Returns:
        What is wrong; empty if nothing is.
    """
    root = Path(dataset.get('data_root') or '.')
    info_path = root / dataset['ann_file']
    prefix = dict(dataset.get('data_prefix') or {})
    problems = check_data_folders(str(root), {k: v for k, v in prefix.items() if v})
    problems = problems or check_info_file(str(info_path))
    if problems:
        return problems
    frames = load(info_path)['data_list']
    step = max(1, len(frames) // max(1, sampled_frames))
    for frame in frames[::step][:sampled_frames]:
        missing = [path for path in sensor_files(frame, dataset) if not path.is_file()]
        if missing:
            what = f"'{info_path}' names '{missing[0]}', which does not exist"
            remedy = (
                f"check data_root='{root}' and data_prefix in the config, or make the info files "
                'anew with tools/create_data.py if the dataset has moved'
            )
            problems.append(Problem(what, remedy))
            break
    return problems + check_pasting(dataset.get('pipeline', ()))


def sensor_files(frame: Mapping, dataset: Mapping) -> list[Path]:
    """Files of one frame that the dataset's sensors need, found as mmdet3d finds them.

    Args:
        frame: One entry of an info file's ``data_list``.
        dataset: The dataset's config: ``data_root``, ``data_prefix`` and ``modality`` count.

    Returns:
        LiDAR keyframe, sweeps and images.
    """
    root = Path(dataset.get('data_root') or '.')
    prefix = {key: root / value for key, value in dict(dataset.get('data_prefix') or {}).items()}
    modality = dataset.get('modality') or dict(use_lidar=True, use_camera=False)
    files = []
    if modality.get('use_lidar'):
        files.append(prefix.get('pts', root) / frame['lidar_points']['lidar_path'])
        for sweep in frame.get('lidar_sweeps', ()):
            path = sweep['lidar_points']['lidar_path']
            folder = prefix.get('pts' if 'samples' in path else 'sweeps', root)
            files.append(folder / Path(path).name)
    if modality.get('use_camera'):
        for camera, image in frame.get('images', {}).items():
            files.append(prefix.get(camera, prefix.get('img', root)) / image['img_path'])
    return files


def check_pasting(pipeline: Sequence[Mapping]) -> list[Problem]:
    """Look through the databases for pasting that a training pipeline names."""
    problems = []
    for step in pipeline:
        sampler = step.get('db_sampler')
        if sampler is not None:
            problems += check_database(
                sampler['info_path'],
                sampler.get('data_root'),
                sampler.get('classes', ()),
                bool(step.get('sample_2d', False)),
            )
    return problems


def check_evaluation(
    evaluator: Mapping | Sequence[Mapping] | None, dataset: Mapping
) -> list[Problem]:
    """Look for what the official nuScenes evaluation of a dataset needs.

    Args:
        evaluator: Config of one metric or several; others than ``NuScenesMetric`` are passed over.
        dataset: Config of the dataset that is evaluated; its info file is known to be good.

    Returns:
        What is wrong; empty if nothing is.
    """
    problems = []
    for metric in nuscenes_metric_configs(evaluator):
        problems += _check_nuscenes_metric(metric, dataset)
    return problems


def _check_nuscenes_metric(metric: Mapping, dataset: Mapping) -> list[Problem]:
    info_path = Path(dataset.get('data_root') or '.') / dataset['ann_file']
    if Path(metric['ann_file']).resolve() != info_path.resolve():
        what = f"the evaluator reads '{metric['ann_file']}', but its dataset '{info_path}'"
        return [Problem(what, 'set ann_file of evaluator and dataset to the same file')]
    info = load(info_path)
    version = info['metainfo']['version']
    # mmdet3d's NuScenesDataset takes its own default, not the info file's version.
    assumed = dict(dataset.get('metainfo') or {}).get('version', 'v1.0-trainval')
    if assumed != version:
        what = f"'{info_path}' was made from {version}, but the dataset's config says {assumed}"
        remedy = f"set metainfo=dict(version='{version}', ...) in the dataset's config"
        return [Problem(what, remedy)]
    if version not in EVALUATED_SPLITS:
        what = f"'{info_path}' was made from {version}, which has no annotations to evaluate with"
        return [Problem(what, 'evaluate on v1.0-trainval or v1.0-mini, or set format_only=True')]
    problems = check_tables(Path(metric['data_root']), version)
    if not problems:
        tokens = {frame['token'] for frame in info['data_list']}
        problems = check_split(Path(metric['data_root']), version, tokens, info_path)
    return problems


def check_tables(root: Path, version: str) -> list[Problem]:
    """Look for the tables of a nuScenes version under a dataset's root."""
    folder = root / version
    if not folder.is_dir():
        remedy = (
            f"set data_root to the folder that holds '{version}', or unpack nuScenes' metadata "
            'there (synthetic data: tools/create_synthetic_nuscenes.py)'
        )
        return [Problem(f"'{folder}' with the nuScenes tables does not exist", remedy)]
    missing = [name for name in NUSCENES_TABLES if not (folder / f'{name}.json').is_file()]
    if missing:
        what = f"'{folder}' lacks the tables {', '.join(missing)}"
        return [Problem(what, f"unpack nuScenes' metadata of {version} into '{root}' again")]
    return []


def check_split(root: Path, version: str, tokens: set[str], info_path: Path) -> list[Problem]:
    """Whether an info file has exactly the samples that the official evaluation asks for.

    Otherwise it ends with "Samples in split doesn't match samples in predictions", after the
    whole of the testing.

    Args:
        root: The dataset's root, with the tables of ``version``.
        version: 'v1.0-trainval' or 'v1.0-mini'.
        tokens: Sample tokens of the info file.
        info_path: The info file, for the message.

    Returns:
        What is wrong; empty if nothing is.
    """
    split = EVALUATED_SPLITS[version]
    scenes = {scene['token']: scene['name'] for scene in _table(root, version, 'scene')}
    wanted_scenes = set(create_splits_scenes()[split])
    wanted = {
        sample['token']
        for sample in _table(root, version, 'sample')
        if scenes[sample['scene_token']] in wanted_scenes
    }
    if tokens == wanted:
        return []
    what = (
        f"'{info_path}' has {len(tokens)} samples, of which {len(tokens & wanted)} are among the "
        f'{len(wanted)} of the official split {split} that is evaluated'
    )
    remedy = (
        f'evaluate with the info file of {version} made by `python tools/create_data.py nuscenes '
        f'--root-path {root} --out-dir {root} --extra-tag nuscenes --version {version}`'
    )
    return [Problem(what, remedy)]


def _table(root: Path, version: str, name: str) -> list[dict[str, Any]]:
    return json.loads((root / version / f'{name}.json').read_text(encoding='utf-8'))
