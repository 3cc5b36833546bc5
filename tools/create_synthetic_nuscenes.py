"""Write a synthetic dataset in the nuScenes v1.0 schema.

    python tools/create_synthetic_nuscenes.py --out data/synthetic

The same settings give the same bytes on the same library versions, whatever the number of
workers. An interrupted run is continued by the same command; a finished one is left alone.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from nuscenes_synth import DatasetConflictError, DatasetSettings, generate_dataset


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; the defaults are those of :class:`DatasetSettings`."""
    defaults = DatasetSettings()
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=Path('data/synthetic'), help='output folder')
    parser.add_argument(
        '--version', default=defaults.version, choices=('v1.0-trainval', 'v1.0-mini')
    )
    parser.add_argument(
        '--train-scenes',
        type=int,
        default=defaults.train_scenes,
        help='scenes named after the official training split',
    )
    parser.add_argument(
        '--val-scenes',
        type=int,
        default=defaults.val_scenes,
        help='scenes named after the official validation split',
    )
    parser.add_argument(
        '--samples-per-scene',
        type=int,
        default=defaults.samples_per_scene,
        help='keyframes in a scene, two a second',
    )
    parser.add_argument(
        '--sweeps', type=int, default=defaults.sweeps, help='LiDAR sweeps between two keyframes'
    )
    parser.add_argument(
        '--image-scale',
        type=float,
        default=defaults.image_scale,
        help='image size as a share of 1600 x 900',
    )
    parser.add_argument(
        '--lidar-azimuths',
        type=int,
        default=defaults.lidar_azimuths,
        help='LiDAR firings per revolution; the real sensor makes about 1084',
    )
    parser.add_argument('--seed', type=int, default=defaults.seed, help='seed of every draw')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='number of processes'
    )
    return parser.parse_args()


def main() -> int:
    """Write the dataset and say what is there; return the exit status."""
    arguments = vars(parse_arguments())
    out, workers = arguments.pop('out'), arguments.pop('workers')
    start = time.monotonic()
    try:
        settings = DatasetSettings(**arguments)
        written = generate_dataset(out, settings, workers)
    except (DatasetConflictError, ValueError) as error:
        sys.stderr.write(f'create_synthetic_nuscenes: {error}\n')
        return 2
    size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file()) / 1e6
    samples = (settings.train_scenes + settings.val_scenes) * settings.samples_per_scene
    done = f'written in {time.monotonic() - start:.0f} s' if written else 'already complete'
    sys.stdout.write(f'{out}: {samples} keyframes, {size:.0f} MB, {done}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
