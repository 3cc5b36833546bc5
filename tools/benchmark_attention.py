"""Time and memory of cross-attention with a bias on windows, against attention without.

One process measures all ways in turn, each time in another order, and takes medians. Query
positions are realistic: uniform reference points, projected with the calibration of the nuScenes
vehicle, so that some points are seen by two cameras and some by none.

Examples:
    python tools/benchmark_attention.py
    python tools/benchmark_attention.py --out attention.json --plot docs/images/attention_cost.png
    python tools/benchmark_attention.py --device cuda --dtype bfloat16
"""

import argparse
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from cmt_bias.bias import WindowShape, find_windows
from cmt_bias.ops import plan_windows, windowed_attention, windowed_bias_attention
from cmt_bias.ops.window_rows import WindowGradients, WindowRows, to_rows
from nuscenes_synth.rig import CAMERAS, FULL_IMAGE_HEIGHT, FULL_IMAGE_WIDTH, LIDAR

HEADS, CHANNELS = 8, 32
DECODER_LAYERS = 6
PC_RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
GIB = 2**30
CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}
# What the ways that store a matrix of queries times keys keep of them at once, in float32.
STORED_MATRICES = {'dense': 4, 'old': 6}


@dataclass(frozen=True)
class Size:
    """Input size of the detector.

    Attributes:
        name: Name in the tables.
        image: Width and height of the network's input in pixels.
        bev: Rows and columns of the BEV map.
        features: Rows and columns of a camera's feature map.
        lidar_window: BEV cells along each side of the window.
        camera_window: Feature cells along each side of the window.
    """

    name: str
    image: tuple[int, int]
    bev: tuple[int, int]
    features: tuple[int, int]
    lidar_window: int
    camera_window: int

    @property
    def num_keys(self) -> int:
        """Tokens of both modalities."""
        return math.prod(self.bev) + len(CAMERAS) * math.prod(self.features)


SIZES = (
    Size('800x320', (800, 320), (128, 128), (20, 50), 5, 7),
    Size('1600x640', (1600, 640), (180, 180), (40, 100), 5, 15),
)


@dataclass
class Inputs:
    """Arguments of attention.

    Attributes:
        query: ``(B, H, Q, D)``; like key and value a view of ``(B, Q, H * D)``, as projections
            leave them.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        index: ``(B, Q, W)``.
        bias: ``(B, Q, W)`` float32.
        grad: ``(B, H, Q, D)`` gradient of the output.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    index: Tensor
    bias: Tensor
    grad: Tensor

    @property
    def differentiable(self) -> list[Tensor]:
        """What gradients are wanted of."""
        return [self.query, self.key, self.value, self.bias]


# Seconds of a 'forward' pass without gradients and of a forward and a backward pass, 'training',
# medians; and with '_memory' the most bytes allocated above the inputs.
Measurement = dict[str, float]
PASSES = ('forward', 'training')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [size.name for size in SIZES]
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--dtype', default='float32', help='of queries, keys and values')
    parser.add_argument('--sizes', nargs='*', default=names, choices=names, help='input sizes')
    parser.add_argument('--queries', nargs='+', type=int, default=[900, 1700])
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 2])
    parser.add_argument(
        '--ways', nargs='+', default=['flash', 'flex', 'dense', 'old'], help='beside no bias'
    )
    parser.add_argument('--repeats', type=int, default=5, help='measurements of each way')
    parser.add_argument('--threads', type=int, help='threads of torch on CPU')
    parser.add_argument(
        '--clock',
        default='wall',
        choices=CLOCKS,
        help='cpu: processor time of this process, for a busy machine; with --threads 1 alone',
    )
    parser.add_argument(
        '--memory-gb',
        type=float,
        default=8.0,
        help='leave out ways that would store larger matrices than this',
    )
    parser.add_argument('--scaling', action='store_true', help='cost over window area and keys')
    parser.add_argument('--scaling-pass', default='training', choices=PASSES, help='for --scaling')
    parser.add_argument('--out', type=Path, help='JSON file for all figures')
    parser.add_argument('--plot', type=Path, help='PNG of the cost over window area and keys')
    return parser.parse_args()


def lidar2img(size: Size) -> Tensor:
    """``(1, V, 4, 4)`` projections to pixels: full images scaled to the width, the top cut."""
    scale = size.image[0] / FULL_IMAGE_WIDTH
    to_input = np.diag([scale, scale, 1.0, 1.0])
    to_input[1, 2] = size.image[1] - FULL_IMAGE_HEIGHT * scale
    projections = []
    for camera in CAMERAS:
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = camera.intrinsics(FULL_IMAGE_WIDTH, FULL_IMAGE_HEIGHT)
        camera_from_lidar = np.linalg.inv(camera.ego_from_sensor()) @ LIDAR.ego_from_sensor()
        projections.append(to_input @ intrinsics @ camera_from_lidar)
    return torch.tensor(np.stack(projections), dtype=torch.float32).unsqueeze(0)


def window_index(size: Size, points: Tensor) -> Tensor:
    """``(B, Q, W)`` keys in the windows of points ``(B, Q, 3)``, normalized to [0, 1]."""
    return find_windows(
        points,
        lidar2img(size).expand(len(points), -1, -1, -1),
        size.image[::-1],
        size.bev,
        (len(CAMERAS), *size.features),
        PC_RANGE,
        WindowShape(size.lidar_window),
        WindowShape(size.camera_window),
    ).index


def make_inputs(
    size: Size, batch: int, queries: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    """Random tokens, windows around random points."""
    generator = torch.Generator().manual_seed(0)

    def tokens(number: int) -> Tensor:
        values = torch.randn(batch, number, HEADS * CHANNELS, generator=generator)
        return values.to(device, dtype).unflatten(-1, (HEADS, CHANNELS)).transpose(1, 2)

    index = window_index(size, torch.rand(batch, queries, 3, generator=generator))
    bias = torch.rand(index.shape, generator=generator) * 2 - 1
    inputs = Inputs(
        query=tokens(queries),
        key=tokens(size.num_keys),
        value=tokens(size.num_keys),
        index=index.to(device),
        bias=bias.to(device),
        grad=tokens(queries),
    )
    for tensor in inputs.differentiable:
        tensor.requires_grad_()
    return inputs


def old_way(inputs: Inputs) -> Callable[[], Tensor]:
    """A dense mask for every head through torch's module, with that module's projections."""
    module = nn.MultiheadAttention(HEADS * CHANNELS, HEADS, batch_first=True)
    module = module.to(inputs.query.device, inputs.query.dtype)

    def attend() -> Tensor:
        query, key, value = (
            tensor.transpose(1, 2).flatten(2)
            for tensor in (inputs.query, inputs.key, inputs.value)
        )
        found = inputs.index >= 0
        mask = query.new_zeros(*query.shape[:2], key.shape[1])
        values = inputs.bias.where(found, 0).to(mask.dtype)
        mask = mask.scatter_add(-1, inputs.index.where(found, 0), values)
        mask = mask.repeat_interleave(HEADS, dim=0)
        output, _ = module(query, key, value, attn_mask=mask, need_weights=False)
        return output.unflatten(-1, (HEADS, CHANNELS)).transpose(1, 2)

    return attend


def ways_to_attend(inputs: Inputs, names: list[str]) -> dict[str, Callable[[], Tensor]]:
    """Functions without arguments; ``flash`` with the plan that the decoder's layers share."""
    arguments = (inputs.query, inputs.key, inputs.value)
    plan = plan_windows(inputs.index, inputs.key.shape[2])
    biased = partial(windowed_bias_attention, *arguments, inputs.index, inputs.bias)
    known: dict[str, Callable[[], Tensor]] = {
        'none': partial(F.scaled_dot_product_attention, *arguments),
        'flash': partial(biased, backend='flash', plan=plan),
        'flex': partial(biased, backend='flex'),
        'dense': partial(biased, backend='dense'),
        'old': old_way(inputs),
        'router': partial(windowed_attention, *arguments, inputs.index, plan=plan),
    }
    return {name: known[name] for name in ('none', *names)}


def run_forward(attend: Callable[[], Tensor]) -> None:
    """One forward pass without gradients."""
    with torch.no_grad():
        attend()


def run_training(attend: Callable[[], Tensor], inputs: Inputs) -> None:
    """One forward and one backward pass."""
    torch.autograd.grad(attend(), inputs.differentiable, inputs.grad, allow_unused=True)


def seconds(
    function: Callable[[], object], device: torch.device, clock: Callable[[], float]
) -> float:
    """Time of one call."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = clock()
    function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return clock() - start


def peak_memory(function: Callable[[], None], device: torch.device) -> int:
    """Most bytes allocated during a call, above what there was before.

    On CPU the profiler reports each allocation and release of torch's allocator: unlike the
    memory of the process, that does not depend on what the C library keeps for later.
    """
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    events = [event for event in results.kineto_results.events() if event.name() == '[memory]']
    events.sort(key=lambda event: event.start_ns())
    changes = np.array([event.nbytes() for event in events], dtype=np.int64)
    return int(max(0, changes.cumsum().max(initial=0)))


def measure(
    ways: dict[str, Callable[[], Tensor]],
    inputs: Inputs,
    args: argparse.Namespace,
    device: torch.device,
    passes: Sequence[str] = PASSES,
) -> dict[str, Measurement]:
    """Measure all ways in turn, every other time in reverse; leaves out what cannot run."""
    candidates = {
        # the same pass of one way after the other, so that slow minutes hit them all
        (name, kind): _pass(attend, inputs, kind)
        for kind in passes
        for name, attend in ways.items()
    }
    functions = {
        (name, kind): function
        for (name, kind), function in candidates.items()
        if _warm_up(f'{name}, {kind}', function)
    }
    memory = {key: peak_memory(function, device) for key, function in functions.items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in functions}
    for repeat in range(args.repeats):
        for key in list(functions)[:: -1 if repeat % 2 else 1]:
            times[key].append(seconds(functions[key], device, CLOCKS[args.clock]))
    measured: dict[str, Measurement] = {name: {} for name, _ in functions}
    for name, kind in functions:
        measured[name][kind] = statistics.median(times[name, kind])
        measured[name][f'{kind}_memory'] = memory[name, kind]
    return measured


def _pass(attend: Callable[[], Tensor], inputs: Inputs, kind: str) -> Callable[[], None]:
    """The function to measure."""
    if kind == 'forward':
        return partial(run_forward, attend)
    return partial(run_training, attend, inputs)


def _warm_up(name: str, function: Callable[[], None]) -> bool:
    """Run once; False, with the reason printed, if that cannot be."""
    try:
        function()
    except RuntimeError as error:
        Console(stderr=True).print(f'{name}: left out. {error}', markup=False)
        return False
    return True


def affordable(names: list[str], batch: int, queries: int, keys: int, limit: float) -> list[str]:
    """Ways whose stored matrices fit into so many gigabytes."""
    matrix = batch * HEADS * queries * keys * 4 / GIB
    return [name for name in names if STORED_MATRICES.get(name, 0) * matrix <= limit]


def compare(args: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Measure all sizes; yields one record each."""
    dtype = getattr(torch, args.dtype)
    sizes = [size for size in SIZES if size.name in args.sizes]
    for size, queries, batch in product(sizes, args.queries, args.batches):
        inputs = make_inputs(size, batch, queries, device, dtype)
        names = affordable(args.ways, batch, queries, size.num_keys, args.memory_gb)
        ways = ways_to_attend(inputs, [*names, 'router'])
        plan = partial(plan_windows, inputs.index, size.num_keys)
        clock = CLOCKS[args.clock]
        plan_times = [seconds(plan, device, clock) for _ in range(args.repeats + 1)][1:]
        measured = measure(ways, inputs, args, device)
        yield {
            'size': size.name,
            'keys': size.num_keys,
            'queries': queries,
            'batch': batch,
            'plan': statistics.median(plan_times),
            'ways': measured,
        }


def scaling_sizes() -> dict[str, list[Size]]:
    """Sizes that differ in the window's area alone, and in the number of keys alone."""
    largest = SIZES[-1]
    by_area = [replace(largest, camera_window=window) for window in (3, 7, 11, 15, 21)]
    by_keys = [
        replace(
            largest,
            bev=(round(180 * side), round(180 * side)),
            features=(round(40 * side), round(100 * side)),
        )
        for side in (0.6, 0.8, 1.0, 1.2, 1.4)
    ]
    return {'area': by_area, 'keys': by_keys}


def scale(args: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Cost that the bias adds, over the camera window's area and the number of keys."""
    dtype = getattr(torch, args.dtype)
    for axis, sizes in scaling_sizes().items():
        for size in sizes:
            inputs = make_inputs(size, 1, 900, device, dtype)
            ways = ways_to_attend(inputs, ['flash'])
            measured = measure(ways, inputs, args, device, (args.scaling_pass,))
            alone = correction_alone(inputs, args.scaling_pass)
            clock = CLOCKS[args.clock]
            times = [seconds(alone, device, clock) for _ in range(5 * args.repeats + 1)][1:]
            yield {
                'axis': axis,
                'area': size.camera_window**2,
                'keys': size.num_keys,
                'correction': statistics.median(times),
                **measured,
            }


def correction_alone(inputs: Inputs, kind: str) -> Callable[[], None]:
    """What ``flash`` does on the window keys, without the kernel for all keys."""
    plan = plan_windows(inputs.index, inputs.key.shape[2])
    query, key, value = (t.detach() for t in (inputs.query, inputs.key, inputs.value))
    rows = WindowRows.of(query, key, value, CHANNELS**-0.5)
    weights = plan.to_table(plan.to_entries(inputs.bias.detach()))
    # about the log-sum-exp of random scores
    reference = rows.query.new_full((len(rows.query), HEADS), 10.0, dtype=rows.dtype)
    grads = WindowGradients.zeros(rows)

    def correct() -> None:
        plan.sum_windows(rows, reference, weights)
        if kind == 'training':
            grad = to_rows(inputs.grad)
            plan.add_gradients(rows, grad, reference, reference, weights, grads)

    return correct


def comparison_table(record: dict) -> Table:
    """Times and memory of one size, with ratios to attention without a bias."""
    title = '{size}, {keys} keys, {queries} queries, batch {batch}'.format(**record)
    table = Table(title=title, title_justify='left')
    for heading in ('way', 'forward', 'ratio', 'forward + backward', 'ratio', 'memory', 'more'):
        table.add_column(heading, justify='left' if heading == 'way' else 'right')
    none = record['ways']['none']
    for name, way in record['ways'].items():
        table.add_row(name, *_cells(way, none))
        if name == 'flash':
            for label, share in (('+ plan / 6', 1 / DECODER_LAYERS), ('+ own plan', 1)):
                planned = {kind: way[kind] + record['plan'] * share for kind in PASSES}
                table.add_row(f'  {label}', *_cells(planned, none))
    return table


def _cells(way: dict, none: dict) -> list[str]:
    """Cells of a row; empty where a pass was not measured."""
    cells = []
    for kind in PASSES:
        if kind in way:
            cells += [f'{way[kind] * 1e3:.1f} ms', f'{way[kind] / none[kind]:.3f}']
        else:
            cells += ['', '']
    if 'training_memory' in way:
        more = way['training_memory'] - none['training_memory']
        cells += [f'{way["training_memory"] / 2**20:.0f} MiB', f'{more / 2**20:+.0f} MiB']
    return cells


def router_share(record: dict) -> float:
    """The router's attention as a part of the decoder layers' attention without a bias."""
    ways = record['ways']
    return ways['router']['training'] / (DECODER_LAYERS * ways['none']['training'])


def scaling_table(records: list[dict]) -> Table:
    """What the bias adds: as a difference, and timed by itself."""
    table = Table(title='cost of the bias, 900 queries, batch 1', title_justify='left')
    headings = ('keys', 'cells of a camera window', 'no bias', 'flash', 'added', 'correction')
    for heading in headings:
        table.add_column(heading, justify='right')
    for record in records:
        none, flash = (_seconds_of(record, name) for name in ('none', 'flash'))
        table.add_row(
            str(record['keys']),
            str(record['area']),
            *(f'{value * 1e3:.0f} ms' for value in (none, flash, flash - none)),
            f'{record["correction"] * 1e3:.1f} ms',
        )
    return table


def _seconds_of(record: dict, way: str) -> float:
    """The one pass that was measured."""
    return next(record[way][kind] for kind in PASSES if kind in record[way])


def draw(records: list[dict], path: Path) -> None:
    """Draw time over window area and over keys."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout='constrained')
    labels = {'area': 'cells in a camera window', 'keys': 'keys (thousands)'}
    units = {'area': 1, 'keys': 1000}
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        chosen = [record for record in records if record['axis'] == name]
        x = [record[name] / units[name] for record in chosen]
        none, flash = (
            np.array([_seconds_of(record, way) for record in chosen]) for way in ('none', 'flash')
        )
        axis.plot(x, flash, 'o-', color='#d95f02', label='with bias')
        axis.plot(x, none, 'o-', color='#444444', label='no bias')
        correction = [record['correction'] for record in chosen]
        axis.plot(x, correction, 's--', color='#1b9e77', label='correction by itself')
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    training = 'training' in records[0]['none']
    axes[0].set_ylabel('forward + backward (s)' if training else 'forward (s)')
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def machine(device: torch.device) -> dict[str, str | int]:
    """What the figures were measured on."""
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    else:
        name = next(
            (
                line.split(':')[1].strip()
                for line in Path('/proc/cpuinfo').read_text().splitlines()
                if line.startswith('model name')
            ),
            platform.processor(),
        )
    return {'device': name, 'threads': torch.get_num_threads(), 'torch': torch.__version__}


def main() -> None:
    """Measure, print and save."""
    args = parse_args()
    device = torch.device(args.device)
    if args.clock == 'cpu' and (args.threads != 1 or device.type != 'cpu'):
        # idle threads wait actively, and that counts
        raise SystemExit('--clock cpu wants --device cpu --threads 1.')
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    found = machine(device)
    console.print(', '.join(f'{name} {value}' for name, value in found.items()), args.dtype)
    comparison = []
    for record in compare(args, device):
        comparison.append(record)
        console.print(comparison_table(record))
        console.print(f'plan {record["plan"] * 1e3:.1f} ms; router {router_share(record):.1%} of')
        console.print(f'{DECODER_LAYERS} layers without a bias, forward + backward\n')
    scaling = list(scale(args, device)) if args.scaling or args.plot else []
    if scaling:
        console.print(scaling_table(scaling))
    if args.plot:
        draw(scaling, args.plot)
    if args.out:
        found |= {'dtype': args.dtype, 'clock': args.clock}
        results = {'machine': found, 'sizes': comparison, 'scaling': scaling}
        args.out.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
    main()
