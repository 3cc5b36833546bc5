"""Convert a whole config; here its model: new names of classes, only arguments that they take."""

import re
from collections.abc import Mapping
from typing import Any

from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.config import Config

from .data import convert_data, image_preparation, training_pipeline
from .report import ConversionReport
from .run import convert_run

_BASE = "_base_ = __import__('cmt_bias').config_path('_base_/default_runtime.py')\n\n"
# Without effect on what is computed.
_IDLE_KEYS = ('plugin', 'plugin_dir', 'workflow', 'gpu_ids', 'work_dir')
# Settings under these keys belong to mmcv's builders, not to the class that they name.
_BUILDERS = ('norm_cfg', 'conv_cfg', 'act_cfg', 'upsample_cfg', 'init_cfg', 'dropout_layer', 'dcn')
_NEW_NAMES = dict(MultiheadAttention='PETRMultiheadAttention')
_HEAD_SETTINGS = dict(train_cfg=('grid_size', 'code_weights', 'assigner'), test_cfg=('grid_size',))


def convert_config(old: Config) -> tuple[str, ConversionReport]:
    """Convert a config of the released plugin or of a project derived from it.

    Args:
        old: The config, read with ``import_custom_modules=False``.

    Returns:
        Text of a config file that inherits this package's default runtime, and what changed.

    Raises:
        ValueError: If it has no ``model`` or no ``data``, or a dataset without annotation file or
            pipeline.
    """
    settings = old.to_dict()
    if 'model' not in settings or 'data' not in settings:
        raise ValueError(
            f"{old.filename} has no 'model' and 'data', so it is not a config of mmdet3d 1.0 and "
            'mmcv 1.x. Those of mmdet3d 1.1 and later need no conversion.'
        )
    report = ConversionReport()
    rest = dict(settings)  # the functions take out of it what they convert
    pipeline = training_pipeline(rest)
    new: dict[str, Any] = dict(
        model=_convert_model(rest.pop('model'), image_preparation(pipeline, report), report),
        **convert_data(rest, report),
        **convert_run(rest, pipeline, report),
    )
    for key in [key for key in rest if key not in _IDLE_KEYS]:
        # A variable of the config file, whole or unpacked, is found in another key's value.
        unpacked = re.escape(repr(rest[key]).strip('[](){}'))
        others = repr({other: settings[other] for other in settings if other != key})
        if not re.search(rf'(?<![\w.]){unpacked}(?![\w.])', others):
            report.lost[key] = 'not known, and no other key has its value'
    return _BASE + Config(new).pretty_text, report


def _convert_model(old: Mapping, preprocessor: Mapping, report: ConversionReport) -> dict:
    """Convert a model; ``preprocessor`` has the arguments that come from the pipelines."""
    model = dict(old)
    new_preprocessor = dict(type='Det3DDataPreprocessor', **preprocessor)
    voxel_layer = dict(model.pop('pts_voxel_layer', None) or {})
    if voxel_layer:
        report.changed['model.pts_voxel_layer'] = 'model.data_preprocessor.voxel_layer'
        if voxel_layer.pop('num_point_features', None):
            key = 'model.pts_voxel_layer.num_point_features'
            report.lost[key] = 'the points say it themselves'
        new_preprocessor.update(voxel=True, voxel_type='hard', voxel_layer=voxel_layer)
    for split, known in _HEAD_SETTINGS.items():
        settings = dict((model.get(split) or {}).get('pts') or {})
        model[split] = dict(pts={key: settings.pop(key) for key in known if key in settings})
        report.lose(f'model.{split}.pts', settings, 'no part of CMT reads it, released or ours')
    model = _convert_part(model, 'model', report)
    return dict(type=model.pop('type'), data_preprocessor=new_preprocessor, **model)


def _convert_part(value: Any, path: str, report: ConversionReport) -> Any:
    """Rename the classes in a part of a model, and drop arguments that they do not take."""
    if isinstance(value, (list, tuple)):
        return type(value)(
            _convert_part(item, f'{path}[{index}]', report) for index, item in enumerate(value)
        )
    if not isinstance(value, Mapping):
        return value
    part = {
        key: child if key in _BUILDERS else _convert_part(child, f'{path}.{key}', report)
        for key, child in value.items()
    }
    if 'type' not in part:
        return part
    new = _NEW_NAMES.get(part['type'], part['type'])
    classes = {name: MODELS.get(name) or TASK_UTILS.get(name) for name in (new, f'mmdet.{new}')}
    name, cls = next((found for found in classes.items() if found[1]), (new, None))
    if cls is not None and name != part['type']:
        report.changed[f'{path}.type'] = f"'{part['type']}' is '{name}'"
        part['type'] = name
    return report.keep_accepted(part, cls, path)
