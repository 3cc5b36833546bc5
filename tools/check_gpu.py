"""Check and measure attention with a bias on a GPU, in ten minutes: run it unchanged on a bare GPU machine.

    python tools/check_gpu.py --out gpu_check           # needs torch, triton and numpy alone
    python tools/check_gpu.py --only exactness times    # some checks
    python tools/check_gpu.py --rehearse                # without a GPU: small, in Triton's interpreter

Writes ``OUT.json`` and ``OUT.md`` after each check, so that nothing is lost when one fails: each
check is by itself, and what it raises is its result. Where mmdet3d is installed, the tiny model trains
a step as well. Exit status 1: a check failed, or what it found is wrong.
"""  # noqa: E501

import argparse
import gc
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

if '--rehearse' in sys.argv:
    os.environ['TRITON_INTERPRET'] = '1'

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'projects'))

from cmt_bias.ops import (  # noqa: E402
    NOT_SEEN,
    QueryWindows,
    TokenLayout,
    Window,
    WindowedBias,
    dense_bias,
    triton_attention,
)
from cmt_bias.ops import dense as dense_backend  # noqa: E402
from cmt_bias.ops.geometry import AttentionInputs  # noqa: E402
from cmt_bias.ops.triton_attention import Launch, Tiles  # noqa: E402

LIMIT_SECONDS = 570
# The released models' tokens and usual windows, and their attention: 8 heads of 32 channels.
SIZES = {
    '1600x640': (TokenLayout((180, 180), 6, (40, 100)), (Window(2), Window(7))),
    '800x320': (TokenLayout((128, 128), 6, (20, 50)), (Window(2), Window(3))),
}
SMALL = (TokenLayout((9, 11), 2, (5, 7)), (Window(1), Window(2)))
HEADS, CHANNELS = 8, 32
TILES = [Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 3), Tiles(128, 64, 4, 3), Tiles(128, 64, 8, 3)]
# Relative errors against float64 must stay below. The gradient of the strength is a small
# difference of large sums.
FLOAT32_BAR, HALF_BAR, HALF_BARS = 1e-5, 1e-2, {'strength': 5e-2}
BACKWARD_TILES = [Tiles(32, 128, 8, 2), Tiles(64, 64, 4, 3), Tiles(64, 128, 8, 2)]


@dataclass(frozen=True)
class Problem:
    """Inputs of attention, and the gradient ``(B, Q, H, D)`` of its output."""

    inputs: AttentionInputs
    grad: Tensor

    def arranged(self, is_sorted: bool) -> 'Problem':
        """The problem; unless ``is_sorted``, with queries as they come."""
        return self if is_sorted else replace(self, inputs=self.inputs._replace(order=None))

    def attend(self, launch: Launch | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The forward pass of the kernel."""
        return triton_attention.attend(self.inputs, launch)

    def differentiate(
        self, kept: tuple[Tensor, Tensor, Tensor], launch: Launch | None = None
    ) -> tuple[Tensor | None, ...]:
        """The backward pass of the kernel."""
        return triton_attention.gradients(self.inputs, self.grad, *kept, launch)

    def exact(self) -> list[Tensor | None]:
        """Output and gradients from the dense reference in float64."""
        names = ('query', 'key', 'value', 'strength')
        tensors = {name: getattr(self.inputs, name) for name in names}
        tensors = {name: None if t is None else t.double() for name, t in tensors.items()}
        inputs = self.inputs._replace(**tensors)
        output, *_ = dense_backend.attend(inputs)
        return [output, *dense_backend.gradients(inputs, self.grad.double(), output)]


def reference_points(queries: int, batch: int, generator: torch.Generator) -> Tensor:
    """``(B, Q, 2)`` in [0, 1]: most objects are near, as in driving."""
    points = torch.randn(batch, queries, 2, generator=generator) * 0.2 + 0.5
    return points.clamp(0, 0.9999)


def cells_of(layout: TokenLayout, points: Tensor, generator: torch.Generator) -> Tensor:
    """Cells of points on the ground around a ring of cameras of 60 degrees each, with overlap."""
    cells = []
    offset = points - 0.5
    bearing = torch.atan2(offset[..., 1], offset[..., 0])
    nearness = (0.05 / offset.norm(dim=-1).clamp(min=0.05)).clamp(max=1)
    view = 0
    for segment in layout.segments:
        shape = torch.tensor([segment.rows, segment.columns])
        if segment.modality == 0:
            cells.append((points.flip(-1) * shape).int())
            continue
        turn = (bearing - view * torch.pi / 3 + torch.pi) % (2 * torch.pi) - torch.pi
        across = 0.5 - turn / 1.15  # 66 degrees: neighbours overlap
        down = (0.45 + 0.5 * nearness).clamp(max=0.99)
        cell = (torch.stack((down, across), dim=-1) * shape).int()
        seen = (across >= 0) & (across < 1)
        cells.append(cell.where(seen.unsqueeze(-1), NOT_SEEN))
        view += 1
    return torch.stack(cells, dim=2)


def make_problem(
    size: tuple[TokenLayout, tuple[Window, Window]],
    device: torch.device,
    dtype: torch.dtype,
    queries: int,
    batch: int = 1,
    strength: float | None = 2.5,
    heads: int = HEADS,
    seed: int = 0,
) -> Problem:
    """Random tokens, and queries at places as in driving."""
    layout, shapes = size
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> Tensor:
        numbers = torch.randn(batch, count, heads, CHANNELS, generator=generator)
        return numbers.to(device, dtype)

    cells = cells_of(layout, reference_points(queries, batch, generator), generator)
    bias = None
    if strength is not None:
        bias = ((torch.rand(batch, queries, 2, generator=generator) * 2 - 1) * strength).to(device)
    windows = QueryWindows(layout, cells.to(device), shapes).sorted()
    key_value = tokens(layout.num_tokens), tokens(layout.num_tokens)
    inputs = AttentionInputs(
        tokens(queries),
        *key_value,
        windows.cells,
        bias,
        windows.order,
        *AttentionInputs.numbers_of(windows),
        scale=CHANNELS**-0.5,
    )
    return Problem(inputs, tokens(queries))


class Checks:
    """The checks, on one device; the public methods, in this order."""

    def __init__(self, device: torch.device, rehearse: bool) -> None:
        self.device, self.rehearse = device, rehearse
        self.cuda = device.type == 'cuda'
        self.half = [torch.float16] if rehearse else [torch.bfloat16, torch.float16]
        self.queries = 30 if rehearse else 900
        self.sizes = {'small': SMALL} if rehearse else SIZES
        small = Tiles(32, 64, 4, 1)
        self.launch = Launch(small, small, (2, 2)) if rehearse else None

    def _problem(self, size: str, dtype: torch.dtype | None = None, **kwargs: Any) -> Problem:
        kwargs = dict(dict(queries=self.queries, heads=1 if self.rehearse else HEADS), **kwargs)
        return make_problem(self.sizes[size], self.device, dtype or self.half[0], **kwargs)

    def environment(self) -> dict[str, Any]:
        """Versions, the device, and the tiles that are the default there."""
        found = dict(torch=torch.__version__, triton=__import__('triton').__version__)
        if not self.cuda:
            return dict(found, device='cpu')
        device = torch.cuda.get_device_properties(self.device)
        launch = Launch.default(self._problem('800x320').inputs.query)
        return dict(
            found, cuda=torch.version.cuda, device=device.name, tiles=str(launch),
            capability=f'{device.major}.{device.minor}',
        )  # fmt: skip

    def exactness(self) -> dict[str, Any]:
        """Relative errors against float64; 'no bias' is plain attention by the same kernel."""
        layout, shapes = SMALL
        gaussian = tuple(replace(window, sigma=1.5) for window in shapes)
        whole = (Window(None), shapes[1])
        cases: dict[str, dict[str, Any]] = {
            'uniform': {}, 'no bias': dict(strength=0.0), 'strength 30': dict(strength=30.0),
            'gaussian': dict(shapes=gaussian), 'whole LiDAR': dict(shapes=whole),
            'windows alone': dict(strength=None), 'one query': dict(queries=1),
            'batch of 3': dict(batch=3),
        }  # fmt: skip
        if self.rehearse:
            cases = {name: cases[name] for name in ('uniform', 'windows alone')}
        found = {}
        for dtype in [torch.float32, *self.half]:
            for name, case in cases.items():
                case = dict(dict(queries=20 if self.rehearse else 137), **case)
                size = (layout, case.pop('shapes', shapes))
                heads = 1 if self.rehearse else 2
                problem = make_problem(size, self.device, dtype, heads=heads, **case)
                kept = problem.attend(self.launch)
                results = [kept[0], *problem.differentiate(kept, self.launch)]
                found[f'{str(dtype)[6:]} {name}'] = [
                    f'{((a.double() - b).norm() / b.norm().clamp(min=1e-9)).item():.1e}'
                    for a, b in zip(results, problem.exact(), strict=True)
                    if a is not None and b is not None
                ]
        return {'order': 'output, query, key, value, strength', **found}

    def biased_tiles(self) -> dict[str, Any]:
        """Share of (query tile, key tile) pairs that need the bias, with and without sorting."""
        found = {}
        for size in self.sizes:
            problem = self._problem(size, heads=1)
            for tiles in (Tiles(64, 64, 4, 2), Tiles(128, 64, 4, 2)):
                for is_sorted in (True, False):
                    share = _share_of_biased_tiles(problem.arranged(is_sorted), tiles)
                    key = f'{size} {tiles.queries}x{tiles.keys}'
                    found[f'{key} {"sorted" if is_sorted else "as they come"}'] = round(share, 3)
        return found

    def times(self) -> dict[str, Any]:
        """Milliseconds and MiB of a layer, and their ratio to plain flash attention's."""
        found: dict[str, Any] = {}
        settings = [(size, 1, self.queries) for size in self.sizes]
        if not self.rehearse:
            settings.append(('1600x640', 2, 1700))
        for size, batch, queries in settings:
            problem = self._problem(size, batch=batch, queries=queries)
            row = found[f'{size}, batch {batch}, {queries} queries'] = {}
            for name, way in self._ways(problem).items():
                row[name] = self._or_error(partial(self._cost, way, problem))
            plain = row['plain flash']
            for cost in row.values():
                if self.cuda and 'forward' in cost and 'forward' in plain:
                    cost['ratio'] = [round(cost[k] / plain[k], 3) for k in ('forward', 'training')]
        return found

    def tile_sizes(self) -> dict[str, Any]:
        """Milliseconds of each pass over tile sizes; the queries sorted and as they come."""
        found: dict[str, Any] = {}
        if self.rehearse:
            return found
        for size in self.sizes:
            problem = self._problem(size)
            default = Launch.default(problem.inputs.query)
            kept = problem.attend()
            for is_sorted in (True, False):
                problem = problem.arranged(is_sorted)
                for factor in (1, 2):
                    forward, backward = default.programs
                    programs = factor * forward, factor * backward
                    base = default._replace(programs=programs)
                    label = f'{size} {"sorted" if is_sorted else "as they come"} {programs}'
                    for tiles in TILES:
                        launch = base._replace(forward=tiles)
                        time_it = partial(self._milliseconds, partial(problem.attend, launch))
                        found[f'forward {label} {tuple(tiles)}'] = self._or_error(time_it)
                    for tiles in BACKWARD_TILES:
                        launch = base._replace(backward=tiles)
                        run = partial(problem.differentiate, kept, launch)
                        time_it = partial(self._milliseconds, run)
                        found[f'backward {label} {tuple(tiles)}'] = self._or_error(time_it)
        return found

    def router(self) -> dict[str, Any]:
        """Milliseconds of attention to windows alone."""
        return {size: self._cost(None, self._problem(size, strength=None)) for size in self.sizes}

    def host_syncs(self) -> str:
        """Both passes under torch's own detector, which raises at a sync."""
        problem = self._problem(next(iter(self.sizes)))
        problem.differentiate(problem.attend(self.launch), self.launch)  # compiles
        if self.cuda:
            torch.cuda.set_sync_debug_mode('error')
        try:
            problem.differentiate(problem.attend(self.launch), self.launch)
        finally:
            if self.cuda:
                torch.cuda.set_sync_debug_mode('default')
        return 'none'

    def determinism(self) -> dict[str, Any]:
        """Whether two runs agree bit for bit, with torch's deterministic mode as well."""
        problem = self._problem(next(iter(self.sizes)))

        def run() -> list[Any]:
            kept = problem.attend(self.launch)
            return [kept[0], *problem.differentiate(kept, self.launch)]

        torch.use_deterministic_algorithms(True)
        try:
            pairs = zip(run(), run(), strict=True)
            return {'equal': all(a is b or torch.equal(a, b) for a, b in pairs)}
        finally:
            torch.use_deterministic_algorithms(False)

    def cuda_graph(self) -> dict[str, Any]:
        """Both passes captured in a CUDA graph and replayed."""
        if not self.cuda:
            return {}
        problem = self._problem('800x320')
        expected = problem.differentiate(problem.attend())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = problem.differentiate(problem.attend())
        graph.replay()
        pairs = zip(found, expected, strict=True)
        equal = all(torch.equal(a, b) for a, b in pairs if a is not None and b is not None)
        return {'equal': equal, 'milliseconds': self._milliseconds(graph.replay)}

    def whole_model(self) -> str:
        """A training step of the tiny model on the device, on data as the benchmark has it."""
        if not self.cuda:
            return 'left out: no GPU'
        from importlib.util import find_spec

        if find_spec('mmdet3d') is None:
            return 'left out: mmdet3d is not installed'
        import subprocess

        command = ['tools/benchmark_model.py', '--recipes', 'tiny', '--device', 'cuda']
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-1500:])
        return done.stdout[-3000:]

    def _ways(self, problem: Problem) -> dict[str, Callable[..., Tensor] | None]:
        """Ways to attend, as functions of query, key, value and strength; None: the kernel."""
        windows = problem.inputs.windows

        def masked(query: Tensor, key: Tensor, value: Tensor, strength: Tensor) -> Tensor:
            bias = dense_bias(WindowedBias(windows, strength)).to(query.dtype).unsqueeze(1)
            bias = bias.expand(-1, query.shape[1], -1, -1)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)

        def plain(query: Tensor, key: Tensor, value: Tensor, strength: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value)

        ways = {'plain flash': plain, 'triton': None, 'dense mask': masked}
        return ways if self.rehearse else dict(ways, flex=_flex(windows))

    def _cost(self, way: Callable[..., Tensor] | None, problem: Problem) -> dict[str, Any]:
        """Milliseconds of a forward and of a forward and backward pass, MiB of the latter."""
        if way is None:

            def forward() -> Any:
                return problem.attend(self.launch)

            def training() -> Any:
                return problem.differentiate(problem.attend(self.launch), self.launch)
        else:
            query, key, value, _, strength, *_ = problem.inputs
            tensors = [t.transpose(1, 2) for t in (query, key, value)]
            tensors += [] if strength is None else [strength]
            inputs = [t.detach().requires_grad_() for t in tensors]
            grad = problem.grad.transpose(1, 2)

            def forward() -> Any:
                with torch.no_grad():
                    return way(*inputs)

            def training() -> Any:
                return torch.autograd.grad(way(*inputs), inputs, grad, allow_unused=True)

        cost = {'forward': self._milliseconds(forward), 'training': self._milliseconds(training)}
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            training()
            cost['MiB'] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
        return cost

    def _milliseconds(self, function: Callable[[], Any], repeats: int = 20) -> float:
        """Median; 0 where nothing is measured."""
        if not self.cuda:
            function()
            return 0.0
        for _ in range(3):
            function()
        # Waiting for each would add the time in which the host prepares the next launch.
        events = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        times = sorted(start.elapsed_time(end) for start, end in events)
        return round(times[repeats // 2], 3)

    @staticmethod
    def _or_error(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:  # one way that fails must not hide the others
            return {'error': f'{type(error).__name__}: {error}'[:300]}


def _share_of_biased_tiles(problem: Problem, tiles: Tiles) -> float:
    """From the boxes that the kernel looks at, by the kernel's own rule."""
    boxes = triton_attention.kernel_arguments(problem.inputs, tiles)['Boxes']
    windows = problem.inputs.windows
    near = total = 0
    for number, segment in enumerate(windows.layout.segments):
        radius = windows.shapes[segment.modality].radius or 0
        first = torch.arange(0, segment.rows * segment.columns, tiles.keys)
        last = first + tiles.keys - 1
        top, bottom = first // segment.columns, last // segment.columns
        left = torch.where(top == bottom, first % segment.columns, 0)
        right = torch.where(top == bottom, left + tiles.keys - 1, segment.columns)
        box = boxes[:, :, number].cpu().unsqueeze(-2)  # (B, query tiles, 1, 4)
        low_row, high_row, low_column, high_column = box.unbind(-1)
        reached = (bottom >= low_row - radius) & (top <= high_row + radius)
        reached &= (right >= low_column - radius) & (left <= high_column + radius)
        near, total = near + int(reached.sum()), total + reached.numel()
    return near / total


def _flex(windows: QueryWindows) -> Callable[..., Tensor]:
    """FlexAttention, with the geometry in tables of keys and queries."""
    from torch.nn.attention.flex_attention import flex_attention

    device, layout = windows.cells.device, windows.layout
    columns = [torch.arange(s.rows * s.columns) % s.columns for s in layout.segments]
    rows = [torch.arange(s.rows * s.columns) // s.columns for s in layout.segments]
    counts = torch.tensor([s.rows * s.columns for s in layout.segments])
    modalities = torch.tensor([s.modality for s in layout.segments])
    segment = torch.repeat_interleave(torch.arange(len(counts)), counts).to(device)
    row, column = torch.cat(rows).to(device), torch.cat(columns).to(device)
    modality = modalities.to(device)[segment]
    radii = torch.tensor([window.radius or 2**20 for window in windows.shapes], device=device)
    radius = radii[modality]
    cell_row, cell_column = (axis.contiguous() for axis in windows.cells.long().unbind(-1))
    attend = torch.compile(flex_attention, dynamic=False)

    def way(query: Tensor, key: Tensor, value: Tensor, strength: Tensor) -> Tensor:
        def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            down = torch.abs(row[k] - cell_row[b, q, segment[k]])
            right = torch.abs(column[k] - cell_column[b, q, segment[k]])
            inside = (down <= radius[k]) & (right <= radius[k])
            return score + torch.where(inside, strength[b, q, modality[k]], 0.0)

        return attend(query, key, value, score_mod=add_bias)

    return way


def what_is_wrong(name: str, result: Any) -> list[str]:
    """What a check found that must not be: numbers and comparisons raise nothing by themselves."""
    if name == 'times':
        return [
            f'{size}: {row["triton"]}' for size, row in result.items() if 'error' in row['triton']
        ]
    if name != 'exactness':
        is_different = isinstance(result, dict) and result.get('equal') is False
        return ['the results differ'] if is_different else []
    wrong, quantities = [], result['order'].split(', ')
    for case in result.keys() - {'order'}:
        for quantity, error in zip(quantities, result[case], strict=False):  # maybe no strength
            half = HALF_BARS.get(quantity, HALF_BAR)
            bar = FLOAT32_BAR if case.startswith('float32') else half
            if not float(error) < bar:  # NaN too
                wrong.append(f'{case}: {quantity} {error}')
    return wrong


def as_markdown(results: dict[str, Any]) -> str:
    """A section with a table for each check."""
    lines = ['# Attention with a bias on this GPU', '']
    for name, result in results.items():
        lines += [f'## {name.replace("_", " ")}', '']
        if not isinstance(result, dict):
            lines += ['```', str(result), '```', '']
            continue
        lines += ['| | |', '|---|---|']
        for key, value in result.items():
            if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
                lines += [f'| {key}: {inner} | {_cell(v)} |' for inner, v in value.items()]
            else:
                lines.append(f'| {key} | {_cell(value)} |')
        lines.append('')
    return '\n'.join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return '; '.join(f'{key} {inner}' for key, inner in value.items())
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> int:
    """Run the checks; 1 if any failed or found something wrong."""
    names = [name for name in vars(Checks) if not name.startswith('_')]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=Path('gpu_check'), help='without suffix')
    parser.add_argument('--only', nargs='+', choices=names, default=names)
    parser.add_argument('--rehearse', action='store_true', help='small, on the CPU, no times')
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        parser.error('torch finds no CUDA device; --rehearse runs all checks without one.')
    reason = triton_attention._why_not_here()
    if reason is not None:
        parser.error(f'{reason}; `pip install triton`.')
    warnings.filterwarnings('ignore', module='torch')
    device = torch.device('cpu' if args.rehearse else 'cuda')
    checks, start, failed = Checks(device, args.rehearse), time.monotonic(), False
    results: dict[str, Any] = {}
    for name in args.only:
        began = time.monotonic()
        if began - start > LIMIT_SECONDS - 60:
            results[name] = 'left out: the time was over'
            continue
        try:
            results[name] = getattr(checks, name)()
            wrong = what_is_wrong(name, results[name])
            if wrong:
                failed = True
                results[name] = {'wrong': '; '.join(wrong), **results[name]}
        except Exception:
            failed = True
            results[name] = {'failed': traceback.format_exc(limit=-4)}
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()
        print(f'{name} ({time.monotonic() - began:.0f} s): {json.dumps(results[name], indent=1)}')
        args.out.with_suffix('.json').write_text(json.dumps(results, indent=1))
        args.out.with_suffix('.md').write_text(as_markdown(results))
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
