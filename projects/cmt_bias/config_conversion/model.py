"""The model of an old config: new names of classes, and only arguments that they take."""

from collections.abc import Mapping
from typing import Any

from mmdet3d.registry import MODELS, TASK_UTILS

from ..cmt.config_keys import accepted_arguments
from .report import ConversionReport

# Settings under these keys belong to mmcv's builders, not to the class that they name.
_BUILDERS = ('norm_cfg', 'conv_cfg', 'act_cfg', 'upsample_cfg', 'init_cfg', 'dropout_layer', 'dcn')
_NEW_NAMES = dict(MultiheadAttention='PETRMultiheadAttention')
_HEAD_SETTINGS = dict(train_cfg=('grid_size', 'code_weights', 'assigner'), test_cfg=('grid_size',))


def convert_model(old: Mapping, preprocessor: Mapping, report: ConversionReport) -> dict:
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
        settings = (model.get(split) or {}).get('pts') or {}
        why = 'no part of CMT reads it, released or ours'
        report.lose_others(f'model.{split}.pts', settings, known, why)
        model[split] = dict(pts={key: settings[key] for key in known if key in settings})
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
    return keep_accepted(part, cls, path, report)


def keep_accepted(part: dict, cls: type | None, path: str, report: ConversionReport) -> dict:
    """What the class of a part of a config takes of it; all of it if there is no such class."""
    name = part['type']
    if cls is None:
        report.lost[f'{path}.type'] = f'no class {name} here; kept, register one of your own'
        return part
    known = accepted_arguments(cls)
    kept = {key: value for key, value in part.items() if known is None or key in {'type', *known}}
    report.lose_others(path, part, kept, f'{name} has no such argument')
    return kept
