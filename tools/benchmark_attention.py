"""Time and memory of cross-attention with the bias, against attention without.

One process measures all ways in turn, every other time in reverse, and takes medians. Query
positions are realistic: uniform reference points, projected with the calibration of the nuScenes
vehicle, so that some points are seen by two cameras and some by none.

Examples:
    python tools/benchmark_attention.py
    python tools/benchmark_attention.py --sizes tiny --lost 0 0.25 0.5
    python tools/benchmark_attention.py --backends cpu dense --repeats 5 --json attention.json
    python tools/benchmark_attention.py --device cuda --dtype bfloat16
"""

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
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

HEADS, CHANNELS = 8, 32
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
    'tiny': Size((256, 96), TokenLayout((32, 32), VIEWS, (12, 32)), (Window(1), Window(1))),
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
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--dtype', default='float32', help='of queries, keys and values')
    parser.add_argument('--sizes', nargs='+', default=['800x320', '1600x640'], choices=SIZES)
    parser.add_argument('--queries', nargs='+', type=int, default=[900])
    parser.add_argument('--batches', nargs='+', type=int, default=[1])
    parser.add_argument('--backends', nargs='+', default=['auto'], choices=BACKENDS)
    parser.add_argument(
        '--lost',
        nargs='+',
        type=float,
        default=[0.0],
        help='shares of queries from which a negative bias takes most of their mass',
    )
    parser.add_argument('--repeats', type=int, default=15, help='measurements of each way')
    parser.add_argument('--threads', type=int, help='threads of torch on CPU')
    parser.add_argument('--json', type=Path, help='file for all figures')
    return parser.parse_args()


def calibration(size: Size, batch: int) -> CameraGeometry:
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
    lidar2img = torch.tensor(np.stack(projections), dtype=torch.float32).expand(batch, -1, -1, -1)
    return CameraGeometry(lidar2img, lidar2img.inverse(), size.image[::-1])


@dataclass
class Inputs:
    """Arguments of attention.

    Attributes:
        query: ``(B, H, Q, D)``; like key and value a view of ``(B, Q, H * D)``, as projections
            leave them.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        strength: ``(B, Q, 2)`` float32.
        windows: The windows.
        grad: ``(B, H, Q, D)`` gradient of the output.
        find: Finds the windows.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    strength: Tensor
    windows: QueryWindows
    grad: Tensor
    find: Callable[[], QueryWindows]

    @classmethod
    def random(
        cls, size: Size, batch: int, queries: int, lost: float, device: str, dtype: torch.dtype
    ) -> 'Inputs':
        """Random tokens, windows around random points."""
        generator = torch.Generator().manual_seed(0)

        def tokens(number: int) -> Tensor:
            values = torch.randn(batch, number, HEADS * CHANNELS, generator=generator)
            return values.to(device, dtype).unflatten(-1, (HEADS, CHANNELS)).transpose(1, 2)

        points = torch.rand(batch, queries, 3, generator=generator).to(device)
        cameras = calibration(size, batch)
        cameras = CameraGeometry(
            cameras.lidar2img.to(device), cameras.img2lidar.to(device), cameras.pad_shape
        )
        find = partial(find_windows, points, size.layout, cameras, PC_RANGE, size.windows)
        strength = torch.rand(batch, queries, 2, generator=generator) * 2 - 1
        query, key = tokens(queries), tokens(size.layout.num_tokens)
        inputs = cls(
            query, key, torch.randn_like(key), strength.to(device), find(), tokens(queries), find
        )
        inputs.lose_mass(round(lost * queries))
        for tensor in inputs.differentiable:
            tensor.requires_grad_()
        return inputs

    def lose_mass(self, count: int) -> None:
        """Let so many queries look at the middle of their LiDAR window, and the bias forbid it."""
        _, columns = self.windows.layout.bev_shape or (1, 1)
        for element in range(len(self.query)):
            row, column = self.windows.cells[element, :count, 0].long().unbind(-1)
            looked_at = self.key[element][:, row * columns + column]  # (H, count, D)
            self.query[element, :, :count] = 4 * looked_at
        self.strength[:, :count] = -3.0

    @property
    def differentiable(self) -> list[Tensor]:
        """What gradients are wanted of."""
        return [self.query, self.key, self.value, self.strength]

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


def seconds(function: Callable[[], object], device: str) -> float:
    """Time of one call."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Most bytes allocated during a call, above what there was before.

    On CPU the profiler reports each allocation and release of torch's allocator: unlike the
    memory of the process, that does not depend on what the C library keeps for later.
    """
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    events = [event for event in results.kineto_results.events() if event.name() == '[memory]']
    events.sort(key=lambda event: event.start_ns())
    changes = np.array([event.nbytes() for event in events], dtype=np.int64)
    return int(max(0, changes.cumsum().max(initial=0)))


def measure(inputs: Inputs, backends: list[str], device: str, repeats: int) -> dict[str, float]:
    """Median seconds of each way, forward and training, of finding windows; bytes of memory."""
    functions: dict[str, Callable[[], object]] = {}
    # the same pass of one way after the other, so that slow minutes hit them all
    for name, run in (('forward', inputs.forward), ('training', inputs.training)):
        for way, attend in inputs.ways(backends).items():
            functions[f'{way}, {name}'] = partial(run, attend)
    functions['windows'] = inputs.find
    for name, function in list(functions.items()):
        try:
            function()
        except RuntimeError as error:
            Console(stderr=True).print(f'{name}: left out. {error}', markup=False)
            del functions[name]
    memory = {
        f'{name}, memory': peak_memory(function, device) for name, function in functions.items()
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats):
        for name in list(functions)[:: -1 if repeat % 2 else 1]:
            times[name].append(seconds(functions[name], device))
    return {**{name: statistics.median(found) for name, found in times.items()}, **memory}


def table_of(case: str, found: dict[str, float], backends: list[str]) -> Table:
    """Times, ratios to attention without a bias, and memory of training."""
    table = Table('way', 'forward', 'ratio', 'forward + backward', 'ratio', 'memory', title=case)
    for way in ('none', *(f'bias, {name}' for name in backends), 'router'):
        row = [way]
        for name in ('forward', 'training'):
            key = f'{way}, {name}'
            if key in found:
                ratio = found[key] / found[f'none, {name}']
                row += [f'{found[key] * 1e3:,.1f} ms', f'{ratio:.3f}']
            else:
                row += ['', '']
        memory = found.get(f'{way}, training, memory')
        table.add_row(*row, '' if memory is None else f'{memory / 2**20:,.0f} MiB')
    share = found['router, training'] / (DECODER_LAYERS * found['none, training'])
    table.caption = (
        f'windows found in {found["windows"] * 1e3:.2f} ms; router {share:.1%} of '
        f'{DECODER_LAYERS} layers'
    )
    return table


def main() -> None:
    """Measure and print."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    records = []
    console.print(
        f'torch {torch.__version__}, {args.device}, {args.dtype}, '
        f'{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}'
    )
    for name, queries, batch, lost in product(args.sizes, args.queries, args.batches, args.lost):
        size = SIZES[name]
        dtype = getattr(torch, args.dtype)
        inputs = Inputs.random(size, batch, queries, lost, args.device, dtype)
        found = measure(inputs, args.backends, args.device, args.repeats)
        case = f'{name}: {size.layout.num_tokens} keys, {queries} queries, batch {batch}'
        case += f', {lost:.0%} of the queries lose their mass' if lost else ''
        console.print(table_of(case, found, args.backends))
        records.append(dict(size=name, queries=queries, batch=batch, lost=lost, **found))
        if args.json:
            args.json.write_text(json.dumps(records, indent=1))


if __name__ == '__main__':
    main()
