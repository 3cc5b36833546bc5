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
    if spec is None or spec.loader is None:
        raise ImportError(f"'{path}' cannot be imported")
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
    parser.add_argument(
        'checkpoint', nargs='?', help="does this checkpoint fit the config's model"
    )
    parser.add_argument('--cfg-options', nargs='+', help='settings that override the config')
    parser.add_argument(
        '--files', type=int, default=20, help='frames of each info file whose files are looked for'
    )
    parser.add_argument(
        '--depth',
        choices=('sampled', 'all'),
        default='sampled',
        help='all: read every file of every frame and list those that are bad',
    )
    return parser.parse_args()


def show(title: str, answers: Sequence[tuple]) -> None:
    """Print the answers of checks: a line each, and below it what is to be done."""
    print(f'\n{title}')
    width = max(len(subject) for subject, _ in answers)
    for subject, answer in answers:
        mark = 'ok' if isinstance(answer, str) else MARKS[answer.severity]
        text = textwrap.indent(str(answer), '    ').strip()
        print(f'  {mark:8}{subject:{width}}  {text}')


def main() -> int:
    """Run the checks; the exit status."""
    args = parse_args()
    warnings.simplefilter('ignore')
    load_alone('problem')
    answers = load_alone('runs.environment_check').check_environment()
    show('Environment', answers)
    if args.config and _count_errors(answers):
        print('The config is looked at when the environment is mended.')
    elif args.config:
        from cmt_bias.runs.config_check import check_config

        options = args.cfg_options or ()
        found = list(check_config(args.config, args.checkpoint, options, args.files, args.depth))
        show('Config', found)
        answers += found
    errors = _count_errors(answers)
    print(f'{errors} to be mended.' if errors else 'Nothing to be mended.')
    return 1 if errors else 0


def _count_errors(answers: Sequence[tuple]) -> int:
    return sum(getattr(answer, 'severity', '') == 'error' for _, answer in answers)


if __name__ == '__main__':
    sys.exit(main())
