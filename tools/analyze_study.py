"""Make the report of a study: Markdown, pictures, and the same numbers as CSV.

Reads what tools/run_study.py left. The metrics by condition and distance come from the official
nuScenes evaluation on each run's detections and are kept beside them, so a second call is quick.
An unfinished study gives a report that says what is missing.

Examples:
    python tools/analyze_study.py work_dirs/scale
    python tools/analyze_study.py work_dirs/scale --out-dir docs/study
"""

import argparse
from pathlib import Path

from cmt_bias.runs.preflight import run_tool
from cmt_bias.study.report import write_report
from cmt_bias.study.run_results import RunReader
from cmt_bias.study.study_results import read_results


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='--work-dir of tools/run_study.py')
    parser.add_argument('--out-dir', type=Path, help='folder of the report (WORK_DIR/report)')
    parser.add_argument('--no-cache', action='store_true', help='evaluate all detections again')
    return parser.parse_args()


def main() -> None:
    """Read, summarize, write, and say what is missing."""
    args = parse_args()
    results = read_results(args.work_dir, RunReader(use_cache=not args.no_cache))
    report = write_report(results, args.out_dir or args.work_dir / 'report')
    for problem in results.problems:
        print(f'missing: {problem}')
    tested = sum(run.is_tested for run in results.runs)
    print(f'{tested} of {len(results.runs)} runs tested; report: {report}')


if __name__ == '__main__':
    run_tool(main)
