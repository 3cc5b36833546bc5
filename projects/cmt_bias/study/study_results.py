"""All runs of a study, read and summarized."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..metrics.subset_evaluation import Subset
from .run_results import RunReader, RunResults
from .seed_statistics import RUN_COLUMNS, summarize
from .study_folder import StudyRecord, read_record, run_folder


@dataclass(frozen=True)
class StudyResults:
    """What the report is made of.

    Attributes:
        record: What the study is.
        runs: Every planned run, in order of variants and seeds, as far as it is there.
        values: A row for each run, subset and metric; columns of :data:`RUN_COLUMNS`.
        summary: A row for each variant, subset and metric; see :func:`summarize`.
    """

    record: StudyRecord
    runs: list[RunResults]
    values: pd.DataFrame
    summary: pd.DataFrame

    @property
    def subsets(self) -> list[Subset]:
        """The parts of the test, with their counts, from a run where all are there."""
        return max((run.subsets for run in self.runs), key=len, default=[])

    @property
    def problems(self) -> list[str]:
        """What is missing, run by run."""
        return [
            f'{run.variant}, seed {run.seed}: {problem}'
            for run in self.runs
            for problem in run.problems
        ]


def read_results(work_dir: Path, reader: RunReader) -> StudyResults:
    """Read the folder of a study.

    Args:
        work_dir: ``--work-dir`` of tools/run_study.py.
        reader: Reads the runs.

    Returns:
        What is there; what is not is among the problems.

    Raises:
        ProblemsFound: If the folder is not that of a study.
    """
    record = read_record(work_dir)
    runs = [
        reader.read(run_folder(work_dir, variant, seed), variant, seed)
        for variant in record.variants
        for seed in record.seeds
    ]
    rows = [row for run in runs for row in run.rows()]
    values = pd.DataFrame(rows, columns=RUN_COLUMNS).astype({'value': float})
    return StudyResults(record, runs, values, summarize(values, record.reference))
