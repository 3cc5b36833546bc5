"""Say what is wrong with the environment, a config's data, or a checkpoint, and what mends it.

Examples:
    python tools/doctor.py
    python tools/doctor.py CONFIG
    python tools/doctor.py CONFIG CHECKPOINT

Ends with status 1 if something must be mended. Runs where mmcv, mmdet3d or torch are missing too.
"""

import argparse
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

ENVIRONMENT_CHECK = (
    Path(__file__).parents[1] / 'projects' / 'cmt_bias' / 'runs' / 'environment_check.py'
)
MARKS = {'ok': 'ok', 'note': 'note', 'warning': 'WARNING', 'error': 'ERROR'}


def load_by_path(path: Path) -> ModuleType:
    """Import a file without the package around it, whose ``__init__`` needs mmdet3d."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{path}' cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
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
    return parser.parse_args()


def show(title: str, results: list) -> None:
    """Print check results as a table, or as plain lines where rich is missing."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f'\n{title}')
        for result in results:
            remedy = f'\n    remedy: {result.remedy}' if result.remedy else ''
            print(f'  {MARKS[result.state]:8}{result.subject}: {result.finding}{remedy}')
        return
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD)
    for column in ('', 'what', 'found', 'remedy'):
        table.add_column(column, overflow='fold')
    style = {'warning': 'yellow', 'error': 'bold red'}
    for result in results:
        row = (MARKS[result.state], result.subject, result.finding, result.remedy)
        table.add_row(*row, style=style.get(result.state))
    # Without markup: messages with [brackets] are to be shown as they are.
    width = None if sys.stdout.isatty() else 140
    Console(markup=False, highlight=False, width=width).print(table)


def main() -> int:
    """Run the checks; the exit status."""
    args = parse_args()
    warnings.simplefilter('ignore')
    environment = load_by_path(ENVIRONMENT_CHECK)
    results = environment.check_environment()
    show('Environment', results)
    if args.config and any(result.state == 'error' for result in results):
        print('The config is looked at when the environment is mended.')
    elif args.config:
        from cmt_bias.runs.config_check import check_config

        found = check_config(args.config, args.checkpoint, args.cfg_options, args.files)
        show('Config', found)
        results += found
    errors = sum(result.state == 'error' for result in results)
    print(f'{errors} to be mended.' if errors else 'Nothing to be mended.')
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main())
