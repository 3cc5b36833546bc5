"""Convert a nuScenes dataset for mmdet3d: info files and the database for pasting.

    python tools/create_data.py nuscenes --root-path data/nuscenes --out-dir data/nuscenes \
        --extra-tag nuscenes --version v1.0-mini

Runs mmdet3d's own converter, which its wheel carries. Real and synthetic datasets alike.
"""

import argparse
import errno
import os
import sys
import time
from pathlib import Path

from cmt_bias.datasets.nuscenes_conversion import (
    MAX_SWEEPS,
    VERSIONS,
    DatasetLayoutError,
    convert_nuscenes,
)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; names follow mmdet3d's own tool."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('dataset', choices=('nuscenes',), help='name of the dataset')
    parser.add_argument(
        '--root-path',
        type=Path,
        default=Path('data/nuscenes'),
        help='folder with samples/, sweeps/, maps/ and v1.0-*/',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='output folder, by default the root path, where configs expect the files',
    )
    parser.add_argument('--extra-tag', default='nuscenes', help='start of the output names')
    parser.add_argument('--version', default='v1.0-trainval', choices=VERSIONS)
    parser.add_argument(
        '--max-sweeps', type=int, default=MAX_SWEEPS, help='past LiDAR sweeps listed for a sample'
    )
    parser.add_argument(
        '--image-crops',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='also cut the objects of the database out of the images, for pasting into images',
    )
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='number of processes'
    )
    return parser.parse_args()


def main() -> int:
    """Convert and say what was written; return the exit status."""
    arguments = parse_arguments()
    out_dir = arguments.out_dir or arguments.root_path
    start = time.monotonic()
    try:
        counts = convert_nuscenes(
            arguments.root_path,
            out_dir,
            prefix=arguments.extra_tag,
            version=arguments.version,
            max_sweeps=arguments.max_sweeps,
            image_crops=arguments.image_crops,
            workers=arguments.workers,
        )
    except DatasetLayoutError as error:
        sys.stderr.write(f'create_data: {error}\n')
        return 2
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOSPC):
            raise
        what = f"'{error.filename or out_dir}' cannot be written to ({error.strerror})"
        sys.stderr.write(f'create_data: {what}: name another folder with --out-dir\n')
        return 2
    samples = ', '.join(
        f'{counts[name]} {name}' for name in ('train', 'val', 'test') if name in counts
    )
    print(
        f'\n{out_dir}: {samples} samples, {counts["objects"]} objects for pasting with '
        f'{counts["crops"]} image crops, {time.monotonic() - start:.0f} s'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
