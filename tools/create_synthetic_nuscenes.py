"""Write a synthetic dataset in the nuScenes v1.0 schema.

    python tools/create_synthetic_nuscenes.py --out data/synthetic

The same settings give the same bytes on the same library versions, whatever the number of
workers. An interrupted run is continued by the same command; a finished one is left alone.
"""

import argparse
import dataclasses
import errno
import os
import sys
import time
from pathlib import Path

from nuscenes_synth import PRESETS, DatasetConflictError, DatasetSettings, generate_dataset

OPTION_HELP = {
    'version': 'v1.0-trainval or v1.0-mini',
    'train_scenes': 'scenes named after the official training split',
    'val_scenes': 'scenes named after the official validation split',
    'samples_per_scene': 'keyframes in a scene, two a second',
    'sweeps': 'LiDAR sweeps between two keyframes',
    'image_scale': 'image size as a share of 1600 x 900',
    'lidar_azimuths': 'LiDAR firings per revolution; the real sensor makes about 1084',
    'camera_harm': 'factor on what night, rain and fog do to the images',
    'lidar_harm': 'factor on what rain and fog do to the LiDAR',
    'seed': 'seed of every draw',
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; what is not given is as in the preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('data/synthetic'), help='output folder')
    sizes = '; '.join(
        f'{name}: {preset.train_scenes} training and {preset.val_scenes} validation scenes'
        for name, preset in PRESETS.items()
    )
    parser.add_argument('--preset', choices=tuple(PRESETS), default='demo', help=sizes)
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='number of processes'
    )
    for field in dataclasses.fields(DatasetSettings):
        parser.add_argument(
            f'--{field.name.replace("_", "-")}',
            type=type(field.default),
            help=OPTION_HELP[field.name],
        )
    return parser.parse_args()


def main() -> int:
    """Write the dataset and say what is there; return the exit status."""
    arguments = vars(parse_arguments())
    out, workers = arguments.pop('out'), arguments.pop('workers')
    preset = PRESETS[arguments.pop('preset')]
    given = {name: value for name, value in arguments.items() if value is not None}
    start = time.monotonic()
    try:
        settings = dataclasses.replace(preset, **given)
        written = generate_dataset(out, settings, workers)
    except (DatasetConflictError, ValueError) as error:
        sys.stderr.write(f'create_synthetic_nuscenes: {error}\n')
        return 2
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOSPC):
            raise
        what = f"'{error.filename or out}' cannot be written to ({error.strerror})"
        sys.stderr.write(f'create_synthetic_nuscenes: {what}: name another folder with --out\n')
        return 2
    size = sum(path.stat().st_size for path in out.rglob('*') if path.is_file()) / 1e6
    samples = (settings.train_scenes + settings.val_scenes) * settings.samples_per_scene
    done = f'written in {time.monotonic() - start:.0f} s' if written else 'already complete'
    sys.stdout.write(f'{out}: {samples} keyframes, {size:.0f} MB, {done}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
