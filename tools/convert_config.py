"""Print today's form of a config of the released CMT plugin (mmdet3d 1.0, mmcv 1.x).

Example:
    python tools/convert_config.py cmt_voxel0100_r50_800x320_cbgs.py > my_config.py

The config goes to standard output; what changed, what has no counterpart and what was added, key
by key, to standard error.
"""

import argparse
import sys
from pathlib import Path

from mmdet3d.utils import register_all_modules
from mmengine.config import Config

import cmt_bias  # noqa: F401  (registers what the configs name)
from cmt_bias.config_conversion import convert_config
from cmt_bias.problem import Problem
from cmt_bias.runs.preflight import run_tool, stop_on


def main() -> None:
    """Convert the config that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('old', help='config file of the released plugin, or derived from it')
    path = parser.parse_args().old
    if not Path(path).is_file():
        stop_on([Problem(f"the config '{path}' does not exist", 'check the path')])
    register_all_modules(init_default_scope=True)
    try:
        text, report = convert_config(Config.fromfile(path, import_custom_modules=False))
    except ValueError as error:
        stop_on([Problem(str(error), 'give the config that the model was trained with')])
    sys.stdout.write(text)
    sys.stderr.write(f'{report}\n')


if __name__ == '__main__':
    run_tool(main)
