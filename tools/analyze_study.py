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
from pathlib import Path

from cmt_bias.runs.preflight import run_tool
from cmt_bias.study.study_report import write_report
from cmt_bias.study.study_results import collect_results


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


def main() -> None:
    """Read, write, and say what is missing."""
    args = parse_args()
    studies = {folder.resolve().name: collect_results(folder) for folder in args.folders}
    for results in studies.values():
        for text in results.missing:
            print(f'missing: {text}')
    print(f'report: {write_report(studies, args.out_dir or args.folders[0] / "report")}')


if __name__ == '__main__':
    run_tool(main)
