"""No import of the package runs back up its order."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / 'projects' / 'cmt_bias'
ORDER = (
    tuple(path.stem for path in PACKAGE.glob('*.py')),
    ('ops',),
    ('cmt',),
    ('bias',),
    ('datasets',),
    ('failures',),
    ('checkpoints',),
    ('metrics',),
    ('runs',),
    ('robustness', 'study', 'visualization'),
)
"""Each may import from those before it, and modules of the first from each other."""


def imported(path: Path) -> Iterator[str]:
    """First part, below the package, of each module of it that a file imports."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            names = [*start, *(node.module or '').split('.')] if node.module else list(start)
            yield from ('.'.join([*names, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_import_goes_down_the_order():
    rank = {name: number for number, names in enumerate(ORDER) for name in names}
    up, seen = [], set()
    for path in sorted(PACKAGE.rglob('*.py')):
        own = path.relative_to(PACKAGE).with_suffix('').parts[0]
        if own == '__init__':
            continue
        for name in imported(path):
            if not name.startswith('cmt_bias.'):
                continue
            other = name.split('.')[1]
            seen.add((own, other))
            last = len(ORDER)  # of what is not named
            below = rank.get(other, last) < max(rank.get(own, last), 1)
            if other != own and not below:
                up.append(f'{path.relative_to(PACKAGE)} imports {name}')
    assert up == []
    assert ('bias', 'cmt') in seen and ('runs', 'datasets') in seen
