"""Time and memory of cross-attention with the bias, against attention without, on a CPU.

One process measures all ways in turn, every other time in reverse, and takes medians. Query
positions are realistic: uniform reference points, projected with the calibration of the nuScenes
vehicle, so that some points are seen by two cameras and some by none. tools/check_gpu.py does the
same on a GPU.

Examples:
    python tools/benchmark_attention.py
    python tools/benchmark_attention.py --sizes tiny --lost 0 0.25 0.5
    python tools/benchmark_attention.py --backends cpu dense --repeats 5
"""

import argparse
import gc
import itertools
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cmt_bias.bias import find_windows
from cmt_bias.cmt.position_encoding import CameraGeometry
from cmt_bias.ops import (
    BACKENDS,
    QueryWindows,
    TokenLayout,
    Window,
    WindowedBias,
    biased_attention,
    window_attention,
)
from nuscenes_synth.rig import CAMERAS, FULL_IMAGE_HEIGHT, FULL_IMAGE_WIDTH, LIDAR

HEADS, CHANNELS, QUERIES = 8, 32, 900
DECODER_LAYERS = 6
PC_RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)


@dataclass(frozen=True)
class Size:
    """Input size of the detector.

    Attributes:
        image: Width and height of the network's input in pixels.
        layout: Tokens.
        windows: On LiDAR and cameras.
    """

    image: tuple[int, int]
    layout: TokenLayout
    windows: tuple[Window, Window]


VIEWS = len(CAMERAS)
SIZES = {
    'tiny': Size((256, 96), TokenLayout((40, 40), VIEWS, (6, 16)), (Window(1), Window(1))),
    '800x320': Size((800, 320), TokenLayout((128, 128), VIEWS, (20, 50)), (Window(2), Window(3))),
    '1600x640': Size(
        (1600, 640), TokenLayout((180, 180), VIEWS, (40, 100)), (Window(2), Window(7))
    ),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--sizes', nargs='+', default=['800x320', '1600x640'], choices=SIZES)
    parser.add_argument('--backends', nargs='+', default=['auto'], choices=BACKENDS)
    parser.add_argument(
        '--lost',
        nargs='+',
        type=float,
        default=[0.0],
        help='shares of queries from which a negative bias takes most of their mass',
    )
    parser.add_argument('--repeats', type=int, default=15, help='measurements of each way')
    parser.add_argument('--threads', type=int, help='threads of torch')
    return parser.parse_args()


def calibration(size: Size) -> CameraGeometry:
    """Projections to pixels: full images scaled to the width, the top cut off."""
    scale = size.image[0] / FULL_IMAGE_WIDTH
    to_input = np.diag([scale, scale, 1.0, 1.0])
    to_input[1, 2] = size.image[1] - FULL_IMAGE_HEIGHT * scale
    projections = []
    for camera in CAMERAS:
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = camera.intrinsics(FULL_IMAGE_WIDTH, FULL_IMAGE_HEIGHT)
        camera_from_lidar = np.linalg.inv(camera.ego_from_sensor()) @ LIDAR.ego_from_sensor()
        projections.append(to_input @ intrinsics @ camera_from_lidar)
    lidar2img = torch.tensor(np.stack(projections), dtype=torch.float32)[None]
    return CameraGeometry(lidar2img, lidar2img.inverse(), size.image[::-1])


class Inputs:
    """Random tokens, windows around random points.

    Attributes:
        query: ``(1, H, Q, D)``; like key and value a view of ``(1, Q, H * D)``, as projections
            leave them.
        key: ``(1, H, K, D)``.
        value: ``(1, H, K, D)``.
        strength: ``(1, Q, 2)`` float32.
        grad: ``(1, H, Q, D)`` gradient of the output.
        find: Finds the windows.
        windows: The windows.
    """

    def __init__(self, size: Size, lost: float) -> None:
        generator = torch.Generator().manual_seed(0)

        def tokens(number: int) -> Tensor:
            values = torch.randn(1, number, HEADS * CHANNELS, generator=generator)
            return values.unflatten(-1, (HEADS, CHANNELS)).transpose(1, 2)

        points = torch.rand(1, QUERIES, 3, generator=generator)
        self.find: Callable[[], QueryWindows] = partial(
            find_windows, points, size.layout, calibration(size), PC_RANGE, size.windows
        )
        self.windows = self.find()
        self.strength = torch.rand(1, QUERIES, 2, generator=generator) * 2 - 1
        self.query, self.key = tokens(QUERIES), tokens(size.layout.num_tokens)
        self.value, self.grad = torch.randn_like(self.key), tokens(QUERIES)
        self._lose_mass(round(lost * QUERIES), size.layout)
        self.differentiable = [self.query, self.key, self.value, self.strength]
        for tensor in self.differentiable:
            tensor.requires_grad_()

    def _lose_mass(self, count: int, layout: TokenLayout) -> None:
        """Let so many queries look at the middle of their LiDAR window, and the bias forbid it."""
        _, columns = layout.bev_shape or (1, 1)
        row, column = self.windows.cells[0, :count, 0].long().unbind(-1)
        self.query[0, :, :count] = 4 * self.key[0][:, row * columns + column]  # (H, count, D)
        self.strength[:, :count] = -3.0

    def ways(self, backends: list[str]) -> dict[str, Callable[[], Tensor]]:
        """Functions without arguments that attend."""
        tensors = self.query, self.key, self.value
        bias = WindowedBias(self.windows, self.strength)
        biased = {
            f'bias, {name}': partial(biased_attention, *tensors, bias, backend=name)
            for name in backends
        }
        return {
            'none': partial(F.scaled_dot_product_attention, *tensors),
            **biased,
            'router': partial(window_attention, *tensors, self.windows),
        }

    def forward(self, attend: Callable[[], Tensor]) -> None:
        """One forward pass without gradients."""
        with torch.no_grad():
            attend()

    def training(self, attend: Callable[[], Tensor]) -> None:
        """One forward and one backward pass."""
        torch.autograd.grad(attend(), self.differentiable, self.grad, allow_unused=True)


def peak_memory(function: Callable[[], object]) -> int:
    """Most bytes allocated during a call, above what there was before.

    The profiler reports each allocation and release of torch's allocator: unlike the memory of
    the process, that does not depend on what the C library keeps for later.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    events = [event for event in results.kineto_results.events() if event.name() == '[memory]']
    events.sort(key=lambda event: event.start_ns())
    changes = np.array([event.nbytes() for event in events], dtype=np.int64)
    return int(max(0, changes.cumsum().max(initial=0)))


def measure(inputs: Inputs, backends: list[str], repeats: int) -> pd.DataFrame:
    """Median milliseconds of each way (rows), forward and training, and MiB of training.

    The row 'windows' is the time in which windows are found.
    """
    functions: dict[tuple[str, str], Callable[[], object]] = {}
    # the same pass of one way after the other, so that slow minutes hit them all
    for name, run in (('forward', inputs.forward), ('training', inputs.training)):
        for way, attend in inputs.ways(backends).items():
            functions[way, name] = partial(run, attend)
    functions['windows', 'forward'] = inputs.find
    table = pd.DataFrame(index=list(dict.fromkeys(way for way, _ in functions)))
    for key, function in list(functions.items()):
        try:
            function()
        except RuntimeError as error:
            sys.stderr.write(f'{", ".join(key)}: left out. {error}\n')
            del functions[key]
    times: dict[tuple[str, str], list[float]] = {key: [] for key in functions}
    for repeat in range(repeats):
        for key in list(functions)[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            functions[key]()
            times[key].append(time.perf_counter() - start)
    for (way, name), found in times.items():
        table.loc[way, name] = 1e3 * np.median(found)
        if name == 'training':
            table.loc[way, 'memory'] = peak_memory(functions[way, name]) / 2**20
    return table


def show(case: str, table: pd.DataFrame) -> None:
    """Print times, ratios to attention without a bias, and memory of training."""
    ratios = table[['forward', 'training']] / table.loc['none', ['forward', 'training']]
    shown = pd.DataFrame(
        {
            'forward, ms': table['forward'].map('{:,.1f}'.format),
            'ratio': ratios['forward'].map('{:.3f}'.format),
            'forward + backward, ms': table['training'].map('{:,.1f}'.format),
            'ratio ': ratios['training'].map('{:.3f}'.format),
            'memory, MiB': table['memory'].map('{:,.0f}'.format),
        }
    ).drop(index='windows')
    share = ratios.loc['router', 'training'] / DECODER_LAYERS
    print(f'\n{case}\n{shown.to_markdown(disable_numparse=True)}')
    print(
        f'windows found in {table.loc["windows", "forward"]:.2f} ms; router {share:.1%} of '
        f'{DECODER_LAYERS} layers'
    )


def main() -> None:
    """Measure and print."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(
        f'torch {torch.__version__}, {torch.get_num_threads()} threads, '
        f'{platform.processor() or platform.machine()}'
    )
    for name, lost in itertools.product(args.sizes, args.lost):
        size = SIZES[name]
        case = f'{name}: {size.layout.num_tokens} keys, {QUERIES} queries'
        case += f', {lost:.0%} of them lose their mass' if lost else ''
        show(case, measure(Inputs(size, lost), args.backends, args.repeats))


if __name__ == '__main__':
    main()
