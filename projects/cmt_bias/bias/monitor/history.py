"""The history of the bias scale in ``bias_scale.csv``, without gaps through kills and resumes.

mmengine's ``scalars.json`` cannot be that place: every start of a run begins another one,
iterations that are done again are in both, and it is written at the logger's interval.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from mmengine.logging import MMLogger

from ...atomic_file import write_atomically

FILE_NAME = 'bias_scale.csv'
Record = Mapping[str, float | None]
"""What is known in a logged iteration, by the columns of :func:`columns`; None: there is none."""


def columns(scale_names: Sequence[str]) -> list[str]:
    """The columns of the history.

    - ``iteration``: iterations done so far; ``epoch``: counted from 1, as in mmengine's log;
    - ``learning_rate``: of the scale's parameter group;
    - ``bias_scale/<entry>``: the scale in effect, after the optimizer's step;
    - ``bias_scale_grad/<entry>``: the gradient at the latest step;
    - ``lidar_mean``, ``lidar_std``, ``camera_mean``, ``camera_std``: of all weights;
    - ``range_low``, ``range_high``: what the scale may take, infinite where it is open;
    - ``bias_scale_raw/<entry>``: as the optimizer left it, before the range is applied.
    """
    return [
        *('iteration', 'epoch', 'learning_rate'),
        *(f'bias_scale/{name}' for name in scale_names),
        *(f'bias_scale_grad/{name}' for name in scale_names),
        *('lidar_mean', 'lidar_std', 'camera_mean', 'camera_std', 'range_low', 'range_high'),
        *(f'bias_scale_raw/{name}' for name in scale_names),
    ]


def read_history(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a history, also a damaged one: rows that are not whole are left out.

    Returns:
        The columns of :func:`columns`, by ascending iteration; NaN where there is no value. Of an
        iteration that is there twice the later row counts.

    Raises:
        ValueError: If it is no history.
    """
    # What follows the last end of a line was cut off by a kill.
    text = Path(path).read_text(errors='replace').rpartition('\n')[0]
    header, *lines = (line.split(',') for line in text.split('\n'))
    if header[:2] != ['iteration', 'epoch'] or not any('bias_scale/' in name for name in header):
        raise ValueError(f"'{path}' does not have the columns of BiasScaleHook")
    rows = {}
    for cells in lines:
        try:
            values = [float(cell or 'nan') for cell in cells]
        except ValueError:
            continue
        if len(values) == len(header) and all(value.is_integer() for value in values[:2]):
            rows[values[0]] = values
    history = pd.DataFrame([rows[row] for row in sorted(rows)], columns=header, dtype=float)
    return history.astype({'iteration': int, 'epoch': int})


class BiasScaleHistory:
    """Adds records to a csv file; each is on the disk when :meth:`append` returns."""

    def __init__(self, path: str | os.PathLike[str], scale_names: Sequence[str]) -> None:
        self.path = Path(path)
        self._columns = columns(scale_names)

    def begin(self, iteration: int) -> None:
        """Prepare the file for rows after ``iteration``, 0 in a run that begins.

        After a resume, rows of iterations that will be done again are dropped. A file that does
        not belong to this run (another run's, which began anew in the same folder, or one with
        other entries) is kept under another name.
        """
        history = pd.DataFrame(columns=self._columns)
        if self.path.is_file():
            try:
                found = read_history(self.path)
                # an earlier version wrote no raw values; a kill may have left the header alone
                is_own = set(found) <= set(self._columns) and (iteration > 0 or found.empty)
            except ValueError:
                is_own = False
            if is_own:
                history = found[found['iteration'] <= iteration].reindex(columns=self._columns)
            else:
                number = 1
                while (kept := self.path.with_name(f'{self.path.stem}.{number}.csv')).exists():
                    number += 1
                os.replace(self.path, kept)
                MMLogger.get_current_instance().info(
                    f"'{self.path}' is of another run or another kind of scale; it is kept as "
                    f"'{kept.name}'."
                )
        text = history.to_csv(index=False, float_format='%.9g', lineterminator='\n')
        write_atomically(self.path, text.encode())

    def append(self, record: Record) -> None:
        """Add a row, and have it on the disk."""
        values = map(record.get, self._columns)
        row = ','.join('' if value is None else f'{value:.9g}' for value in values)
        with self.path.open('a', newline='') as file:
            file.write(row + '\n')
            file.flush()
            os.fsync(file.fileno())
