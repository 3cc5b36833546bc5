"""Make the report of one or several studies: one page, pictures, and the same numbers as CSV.

Reads what tools/run_study.py left in its --work-dir, finished or not, and writes tables, pictures
and the page README.md to --out-dir. The metrics by condition and distance come from the official
nuScenes evaluation on each run's detections; they are computed once for each run and kept beside
it. Studies that --out-dir has tables of already stay part of the page, so that without a folder
the page is made again from its tables alone.

Examples:
    python tools/analyze_study.py work_dirs/clean work_dirs/failures --out-dir docs/study
    python tools/analyze_study.py work_dirs/failures --out-dir docs/study   # while it runs
    python tools/analyze_study.py --out-dir docs/study                      # from its tables
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cmt_bias.problem import Problem
from cmt_bias.runs.preflight import ProblemsFound, run_tool, stop_on
from cmt_bias.study.study_report import write_report
from cmt_bias.study.study_results import STUDY_FILE, collect_results, read_record, work_dir_record


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folders', nargs='*', type=Path, help='--work-dir of tools/run_study.py')
    parser.add_argument(
        '--out-dir', type=Path, help='folder of the page (default: FOLDER/report of the first)'
    )
    args = parser.parse_args()
    if not (args.folders or args.out_dir):
        parser.error('name the folder of a study, or --out-dir with the tables of one')
    return args


def check_places(folders: Sequence[Path], out_dir: Path) -> list[Problem]:
    """Whether each study has a place of its own for its tables, which is nobody else's.

    Raises:
        ProblemsFound: If a folder is not that of a study.
    """
    problems, names = [], [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        place, title = out_dir / name, work_dir_record(folder).title
        if names.count(name) > 1:
            remedy = 'rename one of them: their tables go to folders of these names'
            problems.append(Problem(f"several studies are called '{name}'", remedy))
        elif place.resolve() == folder.resolve():
            what = f"the tables of '{folder}' would be written among its runs"
            problems.append(Problem(what, 'name another --out-dir'))
        else:
            with suppress(ProblemsFound):  # there are none, or damaged ones, which are made again
                earlier = read_record(place / STUDY_FILE).title
                if earlier != title:
                    what = f"'{place}' has the tables of another study, '{earlier}', not '{title}'"
                    remedy = f"remove '{place}' if they are not needed, or rename '{folder}'"
                    problems.append(Problem(what, remedy))
    return problems


def main() -> None:
    """Read, write, and say what is missing."""
    args = parse_args()
    out_dir = args.out_dir or args.folders[0] / 'report'
    stop_on(check_places(args.folders, out_dir))
    studies = {folder.resolve().name: collect_results(folder) for folder in args.folders}
    for results in studies.values():
        for text in results.missing:
            print(f'missing: {text}')
    print(f'report: {write_report(studies, out_dir)}')


if __name__ == '__main__':
    run_tool(main)
