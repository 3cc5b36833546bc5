"""The history of the bias scale in ``bias_scale.csv``, which outlives kills and resumes."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from mmengine.logging import MMLogger

from ...atomic_file import write_atomically
from .probes import WeightStatistics

FILE_NAME = 'bias_scale.csv'


@dataclass(frozen=True)
class BiasScaleRecord:
    """One row of the history.

    Attributes:
        iteration: Iterations done so far.
        epoch: The epoch it belongs to, counted from 1 as in mmengine's log.
        scales: Every entry of the scale in effect, after the optimizer's step.
        scale_range: Lowest and highest value the scale may take; -inf or inf where it is open.
        learning_rate: That of the scale's parameter group; None where no optimizer has it.
        gradients: The gradient of every entry at the latest step; None where there was none.
        weights: Statistics of the weights; None where none were seen.
    """

    iteration: int
    epoch: int
    scales: tuple[float, ...]
    scale_range: tuple[float, float]
    learning_rate: float | None = None
    gradients: tuple[float, ...] | None = None
    weights: WeightStatistics | None = None


class BiasScaleHistory:
    """Rows of :class:`BiasScaleRecord` in a csv file.

    Every row is on the disk when :meth:`append` returns. A row that a kill has cut off is
    recognised and left out.

    Args:
        path: The file.
        scale_names: Name of each entry of the scale.
    """

    def __init__(self, path: str | os.PathLike[str], scale_names: Sequence[str]) -> None:
        self.path = Path(path)
        self.scale_names = tuple(scale_names)
        self.columns = [
            'iteration',
            'epoch',
            'learning_rate',
            *(f'bias_scale/{name}' for name in self.scale_names),
            *(f'bias_scale_grad/{name}' for name in self.scale_names),
            'lidar_mean',
            'lidar_std',
            'camera_mean',
            'camera_std',
            'range_low',
            'range_high',
        ]

    def begin(self, iteration: int) -> None:
        """Prepare the file for rows after ``iteration``.

        After a resume, rows of iterations that will be done again are dropped. A file that does
        not belong to this run (another run's, which began anew in the same folder, or one with
        other columns) is kept under another name.

        Args:
            iteration: Iterations done so far; 0 in a run that begins.
        """
        logger = MMLogger.get_current_instance()
        if self.path.is_file() and (iteration == 0 or not self._has_our_columns()):
            kept = self._put_aside()
            logger.info(
                f"'{self.path}' is of another run or another kind of scale; it is kept as "
                f"'{kept.name}'."
            )
        if not self.path.is_file():
            write_atomically(self.path, _lines([self.columns]).encode())
            return
        text = self.path.read_text()
        rows = [row for row in self._rows(text) if int(row[0]) <= iteration]
        wanted = _lines([self.columns, *rows])
        if wanted != text:
            dropped = len(text.splitlines()) - len(wanted.splitlines())
            logger.info(
                f"'{self.path}': dropped {dropped} rows that were cut off by a kill or come after "
                f'iteration {iteration}, where this run goes on.'
            )
            write_atomically(self.path, wanted.encode())

    def append(self, record: BiasScaleRecord) -> None:
        """Add a row, and have it on the disk."""
        gradients = record.gradients or (None,) * len(self.scale_names)
        weights = (None,) * 4 if record.weights is None else astuple(record.weights)
        cells = [
            str(record.iteration),
            str(record.epoch),
            *map(
                _cell,
                (record.learning_rate, *record.scales, *gradients, *weights, *record.scale_range),
            ),
        ]
        with self.path.open('a', newline='') as file:
            file.write(_lines([cells]))
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[BiasScaleRecord]:
        """All rows, in the order of the file."""
        return [self._record(row) for row in self._rows(self.path.read_text())]

    def _record(self, row: Sequence[str]) -> BiasScaleRecord:
        count = len(self.scale_names)
        values = [float(cell) if cell else None for cell in row[2:]]
        learning_rate, scales, gradients = values[0], values[1 : 1 + count], values[1 + count :]
        weights, bounds = gradients[count : count + 4], gradients[count + 4 :]
        return BiasScaleRecord(
            iteration=int(row[0]),
            epoch=int(row[1]),
            scales=tuple(_or_nan(scales)),
            scale_range=(_or_nan(bounds)[0], _or_nan(bounds)[1]),
            learning_rate=learning_rate,
            gradients=None if None in gradients[:count] else tuple(_or_nan(gradients[:count])),
            weights=None if None in weights else WeightStatistics(*_or_nan(weights)),
        )

    def _rows(self, text: str) -> list[list[str]]:
        """The whole rows below the header; what is not one is left out."""
        whole, _, _ = text.rpartition('\n')
        rows = list(csv.reader(io.StringIO(whole)))[1:]
        return [row for row in rows if self._is_whole(row)]

    def _is_whole(self, row: Sequence[str]) -> bool:
        if len(row) != len(self.columns) or not (row[0].isdigit() and row[1].isdigit()):
            return False
        try:
            _ = [float(cell) for cell in row[2:] if cell]
        except ValueError:
            return False
        return True

    def _has_our_columns(self) -> bool:
        with self.path.open(newline='') as file:
            return next(csv.reader(file), None) == self.columns

    def _put_aside(self) -> Path:
        number = 1
        while (kept := self.path.with_name(f'{self.path.stem}.{number}.csv')).exists():
            number += 1
        os.replace(self.path, kept)
        return kept


def _lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def _cell(value: float | None) -> str:
    return '' if value is None else f'{value:.9g}'


def _or_nan(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
