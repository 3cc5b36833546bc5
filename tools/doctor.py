"""Say what is wrong with the environment, a config's data, or a checkpoint, and what mends it.

Examples:
    python tools/doctor.py
    python tools/doctor.py CONFIG
    python tools/doctor.py CONFIG CHECKPOINT
    python tools/doctor.py CONFIG --depth all      # reads every file of every frame

Ends with status 1 if something must be mended. Runs where mmcv, mmdet3d or torch are missing too.
"""

import argparse
import importlib.util
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1] / 'projects' / 'cmt_bias'
MARKS = {'note': 'note', 'warning': 'WARNING', 'error': 'ERROR'}


def load_alone(name: str) -> ModuleType:
    """Import a module of the package without the package's ``__init__``, which needs mmdet3d."""
    path = PACKAGE / f'{name.replace(".", "/")}.py'
    spec = importlib.util.spec_from_file_location(f'cmt_bias.{name}', path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='look at the data that this config names, too')
    parser.add_argument('checkpoint', nargs='?', help="does it fit the config's model?")
    parser.add_argument('--cfg-options', nargs='+', help='settings that override the config')
    parser.add_argument(
        '--files', type=int, default=20, help='frames of each info file whose files are looked for'
    )
    depth_help = 'all: read every file of every frame and list those that are bad'
    parser.add_argument('--depth', choices=('sampled', 'all'), default='sampled', help=depth_help)
    return parser.parse_args()


def show(title: str, answers: Sequence[tuple]) -> int:
    """Print the answers of checks, each with what is to be done; how many must be mended."""
    print(f'\n{title}')
    width = max(len(subject) for subject, _ in answers)
    for subject, answer in answers:
        mark = 'ok' if isinstance(answer, str) else MARKS[answer.severity]
        text = textwrap.indent(str(answer), '    ').strip()
        print(f'  {mark:8}{subject:{width}}  {text}')
    return sum(getattr(answer, 'severity', '') == 'error' for _, answer in answers)


def main() -> int:
    """Run the checks; the exit status."""
    args = parse_args()
    warnings.simplefilter('ignore')
    load_alone('problem')
    errors = show('Environment', load_alone('runs.environment_check').check_environment())
    if args.config and errors:
        print('The config is looked at when the environment is mended.')
    elif args.config:
        from cmt_bias.runs.config_check import check_config

        options = args.cfg_options or ()
        found = check_config(args.config, args.checkpoint, options, args.files, args.depth)
        errors = show('Config', list(found))
    print(f'{errors} to be mended.' if errors else 'Nothing to be mended.')
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main())
