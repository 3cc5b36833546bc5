"""Convert a whole config: its model, its data and its run."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .data import convert_data, image_preparation, training_pipeline
from .model import convert_model
from .report import ConversionReport
from .run import HANDLED_RUN_KEYS, convert_run

_BASE = "_base_ = __import__('cmt_bias').config_path('_base_/default_runtime.py')\n\n"
# Without effect on what is computed.
_IDLE_KEYS = ('plugin', 'plugin_dir', 'workflow', 'gpu_ids', 'work_dir')


def convert_config(old: Config) -> tuple[str, ConversionReport]:
    """Convert a config of the released plugin or of a project derived from it.

    Args:
        old: The config, read with ``import_custom_modules=False``.

    Returns:
        Text of a config file that inherits this package's default runtime, and what changed.

    Raises:
        ValueError: If it has no ``model`` or no ``data``.
    """
    settings = old.to_dict()
    if 'model' not in settings or 'data' not in settings:
        raise ValueError(
            f"{old.filename} has no 'model' and 'data', so it is not a config of mmdet3d 1.0 and "
            'mmcv 1.x. Those of mmdet3d 1.1 and later need no conversion.'
        )
    report = ConversionReport()
    pipeline = training_pipeline(settings)
    new: dict[str, Any] = dict(
        model=convert_model(settings['model'], image_preparation(pipeline, report), report),
        **convert_data(settings, report),
        **convert_run(settings, pipeline, report),
    )
    for key, value in settings.items():
        known = key in ('model', 'data', *HANDLED_RUN_KEYS, *_IDLE_KEYS)
        if not known and not _occurs(value, {**settings, key: None}):
            report.lost[key] = 'not known, and no other key has its value'
    return _BASE + Config(new).pretty_text, report


def _occurs(value: Any, tree: Any) -> bool:
    """Whether a config holds a value anywhere: then it is a variable of the config file.

    A dict is held by one with more keys too, and a list by a longer one (``*variable``).
    """
    if isinstance(tree, Mapping):
        if isinstance(value, Mapping) and all(
            key in tree and tree[key] == child for key, child in value.items()
        ):
            return True
        children = list(tree.values())
    elif isinstance(tree, (list, tuple)):
        if isinstance(value, (list, tuple)) and all(child in tree for child in value):
            return True
        children = list(tree)
    else:
        return False
    return any(child == value or _occurs(value, child) for child in children)
