"""Convert a whole config: its model, its data and its run."""

import re
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
    pipeline = training_pipeline(settings)
    new: dict[str, Any] = dict(
        model=convert_model(settings['model'], image_preparation(pipeline, report), report),
        **convert_data(settings, report),
        **convert_run(settings, pipeline, report),
    )
    for key, value in settings.items():
        if key in ('model', 'data', *HANDLED_RUN_KEYS, *_IDLE_KEYS):
            continue
        # A variable of the config file, whole or unpacked, is found in another key's value.
        unpacked = re.escape(repr(value).strip('[](){}'))
        others = repr({other: settings[other] for other in settings if other != key})
        if not re.search(rf'(?<![\w.]){unpacked}(?![\w.])', others):
            report.lost[key] = 'not known, and no other key has its value'
    return _BASE + Config(new).pretty_text, report
