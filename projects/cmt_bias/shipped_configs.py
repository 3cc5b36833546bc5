"""Where the configs that come with the package are, for configs of other projects."""

import difflib
from pathlib import Path

CONFIG_FOLDER = Path(__file__).resolve().parent / '.mim' / 'configs'


def config_path(name: str) -> str:
    """The absolute path of a config below ``configs/`` that came with the package.

    A config of another project inherits it with one line, which mmengine evaluates by itself and
    so needs the import within (its own ``package::config`` knows a fixed list of packages)::

        _base_ = __import__('cmt_bias').config_path('cmt_bias/<preset>.py')

    Raises:
        FileNotFoundError: If there is no such config; names the nearest ones.
    """
    path = CONFIG_FOLDER / name
    if path.is_file():
        return str(path)
    known = sorted(str(p.relative_to(CONFIG_FOLDER)) for p in CONFIG_FOLDER.rglob('*.py'))
    if not known:
        raise FileNotFoundError(
            f'{CONFIG_FOLDER} holds no configs; install the package with `pip install .` or '
            '`pip install -e .` in its repository.'
        )
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
    raise FileNotFoundError(
        f"cmt_bias has no config '{name}'. The nearest: {', '.join(nearest)}; all: {CONFIG_FOLDER}"
    )
