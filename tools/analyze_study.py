"""Make the report of a study: Markdown, pictures, and the same numbers as CSV.

Reads what tools/run_study.py left in its --work-dir, or the tables that this tool has written, so
that a committed report can be made again without its runs. The metrics by condition and distance
come from the official nuScenes evaluation on each run's detections and are kept beside them. An
unfinished study gives a report that says what is missing.

Examples:
    python tools/analyze_study.py work_dirs/scale
    python tools/analyze_study.py work_dirs/scale --out-dir docs/study/clean
    python tools/analyze_study.py docs/study/clean --tables-only
"""

import argparse
from pathlib import Path

from cmt_bias.runs.preflight import run_tool
from cmt_bias.study.study_report import write_report
from cmt_bias.study.study_results import collect_results, load_results


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='--work-dir of tools/run_study.py, or tables')
    parser.add_argument('--out-dir', type=Path, help='folder of the report (FOLDER/report)')
    parser.add_argument(
        '--tables-only', action='store_true', help='make the report in FOLDER of its tables'
    )
    return parser.parse_args()


def main() -> None:
    """Read, write, and say what is missing."""
    args = parse_args()
    if args.tables_only:
        results, out_dir = load_results(args.folder), args.out_dir or args.folder
    else:
        results, out_dir = collect_results(args.folder), args.out_dir or args.folder / 'report'
    report = write_report(results, out_dir)
    for text in results.missing:
        print(f'missing: {text}')
    print(f'report: {report}')


if __name__ == '__main__':
    run_tool(main)
