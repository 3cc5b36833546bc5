"""Triton kernels of attention to windows; :mod:`.triton_attention` launches them.

The keys are cut into tiles of BN that lie in one segment each, the queries, sorted by place, into
tiles of BM. ``Boxes`` says for each query tile and segment where the middles of its windows lie. A
key tile out of their reach has no bias: it costs what it costs in plain flash attention, or
nothing where keys outside the windows do not count (HIDE).

``Cells`` is ``(B, Q, S, 2)`` int32, ``Strength`` ``(B, Q, 2)`` float32, ``Order`` ``(B, Q)`` the
queries' numbers in the order of their places, ``Boxes`` ``(B, query tiles, S, 4)`` the lowest and
highest row and column. PROFILE is the profile of a modality's windows.
"""

import triton
import triton.language as tl

UNIFORM, GAUSSIAN, WHOLE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

_LOG2_E = tl.constexpr(1.4426950408889634)
# A window's middle that is in no segment, and a place behind all others.
_NOWHERE = tl.constexpr(-(2**14))
_LAST_PLACE = tl.constexpr(2**30)


@triton.jit
def _middles(Cells, batch, query, used, segment, NQ, S):
    """Rows and columns of the middles of the queries' windows in a segment."""
    cell = Cells + ((batch * NQ + query) * S + segment) * 2
    row = tl.load(cell, mask=used, other=-1)
    column = tl.load(cell + 1, mask=used, other=0)
    return tl.where(row < 0, _NOWHERE, row), column


@triton.jit
def _places(Cells, batch, query, used, NQ, S, STRIP):
    """A number for each query by which neighbours are neighbours: strips of rows, to and fro.

    The place is that in the first segment in which a query has a window.
    """
    place = tl.full(query.shape, _LAST_PLACE, tl.int32)
    for back in range(S):
        segment = S - 1 - back
        row, column = _middles(Cells, batch, query, used, segment, NQ, S)
        strip = row // STRIP
        along = tl.where(strip % 2 == 0, column, 0xFFFF - column)
        place = tl.where(row >= 0, (segment << 26) + (strip << 16) + along, place)
    return place


@triton.jit
def sort_queries(Cells, Order, NQ, S, STRIP, BM: tl.constexpr):
    """Order the queries by place: one program finds the ranks of BM queries by comparison."""
    batch, tile = tl.program_id(1), tl.program_id(0)
    query = tile * BM + tl.arange(0, BM)
    place = _places(Cells, batch, query, query < NQ, NQ, S, STRIP)
    rank = tl.zeros((BM,), tl.int32)
    for start in range(0, NQ, BM):
        other = start + tl.arange(0, BM)
        others = _places(Cells, batch, other, other < NQ, NQ, S, STRIP)
        tie = (others[None, :] == place[:, None]) & (other[None, :] < query[:, None])
        before = ((others[None, :] < place[:, None]) | tie) & (other < NQ)[None, :]
        rank += tl.sum(before.to(tl.int32), 1)
    tl.store(Order + batch * NQ + rank, query, mask=query < NQ)


@triton.jit
def find_boxes(Cells, Order, Boxes, NQ, S, BM: tl.constexpr):
    """Where the windows of a query tile have their middles, in each segment."""
    batch, tile = tl.program_id(1), tl.program_id(0)
    position = tile * BM + tl.arange(0, BM)
    used = position < NQ
    query = tl.load(Order + batch * NQ + position, mask=used, other=0)
    for segment in range(S):
        row, column = _middles(Cells, batch, query, used, segment, NQ, S)
        seen = used & (row >= 0)
        box = Boxes + ((batch * tl.num_programs(0) + tile) * S + segment) * 4
        tl.store(box, tl.min(tl.where(seen, row, -2 * _NOWHERE), 0))
        tl.store(box + 1, tl.max(tl.where(seen, row, 2 * _NOWHERE), 0))
        tl.store(box + 2, tl.min(tl.where(seen, column, -2 * _NOWHERE), 0))
        tl.store(box + 3, tl.max(tl.where(seen, column, 2 * _NOWHERE), 0))


@triton.jit
def _is_near(box, first, COLUMNS, RADIUS, BN: tl.constexpr):
    """Whether a window of the query tile may reach cells ``first`` to ``first + BN - 1``."""
    top, bottom = first // COLUMNS, (first + BN - 1) // COLUMNS
    left = tl.where(top == bottom, first - top * COLUMNS, 0)
    right = tl.where(top == bottom, left + BN - 1, COLUMNS)
    in_rows = (bottom >= tl.load(box) - RADIUS) & (top <= tl.load(box + 1) + RADIUS)
    in_columns = (right >= tl.load(box + 2) - RADIUS) & (left <= tl.load(box + 3) + RADIUS)
    return in_rows & in_columns


@triton.jit
def _places_of_keys(cell, COLUMNS):
    """Rows and columns of cells; cheaper than an integer division, exact below 2**20 cells."""
    row = ((cell.to(tl.float32) + 0.5) * (1.0 / COLUMNS)).to(tl.int32)
    return row, cell - row * COLUMNS


@triton.jit
def _gains(row, column, key_row, key_column, RADIUS, FALLOFF, PROFILE: tl.constexpr):
    """Which pairs of a query and a key are in its window, and the window's profile there."""
    down, right = key_row - row, key_column - column
    inside = (tl.abs(down) <= RADIUS) & (tl.abs(right) <= RADIUS)
    if PROFILE == GAUSSIAN:
        gain = tl.exp2(-FALLOFF * (down * down + right * right).to(tl.float32))
    else:
        gain = tl.full(inside.shape, 1.0, tl.float32)
    return inside, gain


@triton.jit
def _attend_tile(total, top, mass, q, K, V, Cells, strength, batch, query, used, segment, first,
                 stride_k, stride_v, special, scale, NQ, S, SIZE, COLUMNS, RADIUS, FALLOFF,
                 PROFILE: tl.constexpr, HIDE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                 BN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One step of the online softmax; logits are in units of ln 2."""
    cell, d = first + tl.arange(0, BN), tl.arange(0, DP)
    live = cell < SIZE
    k = tl.load(K + cell[None, :] * stride_k + d[:, None], live[None, :] & (d < D)[:, None], 0.0)
    logits = tl.dot(q, k, input_precision=PRECISION) * scale
    if PROFILE == WHOLE:
        logits += strength[:, None]
    if special:
        if PROFILE != WHOLE:
            row, column = _middles(Cells, batch, query, used, segment, NQ, S)
            key_row, key_column = _places_of_keys(cell, COLUMNS)
            inside, gain = _gains(row[:, None], column[:, None], key_row[None, :],
                                  key_column[None, :], RADIUS, FALLOFF, PROFILE)  # fmt: skip
            if HIDE:
                logits = tl.where(inside, logits, -float('inf'))
            else:
                logits += tl.where(inside, gain * strength[:, None], 0.0)
        logits = tl.where(live[None, :], logits, -float('inf'))
    new_top = tl.maximum(top, tl.max(logits, 1))
    shift = new_top
    if HIDE:
        shift = tl.where(new_top == -float('inf'), 0.0, new_top)
    p = tl.exp2(logits - shift[:, None])
    shrink = tl.exp2(top - shift)
    v = tl.load(V + cell[:, None] * stride_v + d[None, :], live[:, None] & (d < D)[None, :], 0.0)
    total = total * shrink[:, None]
    total += tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
    return total, new_top, mass * shrink + tl.sum(p, 1)


@triton.jit
def _attend_modality(total, top, mass, q, K, V, Cells, Boxes, strength, batch, query, used, low,
                     high, stride_k, stride_v, scale, NQ, S, BEGIN, SIZE, COLUMNS, RADIUS, FALLOFF,
                     PROFILE: tl.constexpr, HIDE: tl.constexpr, D: tl.constexpr,
                     DP: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Attend to key tiles ``low`` to ``high - 1`` of a modality, whose first segment is BEGIN."""
    tiles_of_segment = tl.cdiv(SIZE, BN)
    for tile in range(low, high):
        part = tile // tiles_of_segment
        first = (tile - part * tiles_of_segment) * BN
        segment = BEGIN + part
        special = first + BN > SIZE
        if PROFILE != WHOLE:
            near = _is_near(Boxes + segment * 4, first, COLUMNS, RADIUS, BN)
            special = special | near
            visit = near
        else:
            visit = tile >= 0
        k, v = K + part * SIZE * stride_k, V + part * SIZE * stride_v
        if HIDE:
            if visit:
                total, top, mass = _attend_tile(
                    total, top, mass, q, k, v, Cells, strength, batch, query, used, segment, first,
                    stride_k, stride_v, special, scale, NQ, S, SIZE, COLUMNS, RADIUS, FALLOFF,
                    PROFILE, HIDE, D, DP, BN, PRECISION)  # fmt: skip
        else:
            total, top, mass = _attend_tile(
                total, top, mass, q, k, v, Cells, strength, batch, query, used, segment, first,
                stride_k, stride_v, special, scale, NQ, S, SIZE, COLUMNS, RADIUS, FALLOFF,
                PROFILE, HIDE, D, DP, BN, PRECISION)  # fmt: skip
    return total, top, mass


@triton.jit
def attend(Query, Key, Value, Cells, Strength, Order, Boxes, Out, LogSumExp,
           qb, qh, qn, kb, kh, kn, vb, vh, vn, os, ob, oh, on, scale, H, NQ, S, tiles_of_split,
           SIZE0, COLUMNS0, RADIUS0, FALLOFF0, TILES0, SIZE1, COLUMNS1, RADIUS1, FALLOFF1, TILES1,
           START1, SEGMENTS0, PROFILE0: tl.constexpr, PROFILE1: tl.constexpr, HIDE: tl.constexpr,
           D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """A query tile of a head attends to the key tiles of one split: LiDAR's, then cameras'."""
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    position, d = tile * BM + tl.arange(0, BM), tl.arange(0, DP)
    used = position < NQ
    query = tl.load(Order + batch * NQ + position, mask=used, other=0)
    some = used[:, None] & (d < D)[None, :]
    q = tl.load(Query + batch * qb + h * qh + query[:, None] * qn + d[None, :], some, 0.0)
    K, V = Key + batch * kb + h * kh, Value + batch * vb + h * vh
    boxes = Boxes + (batch * tl.num_programs(0) + tile) * S * 4
    total = tl.zeros((BM, DP), tl.float32)
    top = tl.full((BM,), -float('inf'), tl.float32)
    mass = tl.zeros((BM,), tl.float32)
    low, high = split * tiles_of_split, tl.minimum((split + 1) * tiles_of_split, TILES0 + TILES1)
    strength0, strength1 = mass, mass
    if not HIDE:
        strengths = Strength + (batch * NQ + query) * 2
        strength0 = tl.load(strengths, mask=used, other=0.0) * _LOG2_E
        strength1 = tl.load(strengths + 1, mask=used, other=0.0) * _LOG2_E
    total, top, mass = _attend_modality(
        total, top, mass, q, K, V, Cells, boxes, strength0, batch, query, used, low,
        tl.minimum(high, TILES0), kn, vn, scale * _LOG2_E, NQ, S, 0, SIZE0, COLUMNS0, RADIUS0,
        FALLOFF0, PROFILE0, HIDE, D, DP, BN, PRECISION)  # fmt: skip
    total, top, mass = _attend_modality(
        total, top, mass, q, K + START1 * kn, V + START1 * vn, Cells, boxes, strength1, batch,
        query, used, tl.maximum(low, TILES0) - TILES0, high - TILES0, kn, vn, scale * _LOG2_E, NQ,
        S, SEGMENTS0, SIZE1, COLUMNS1, RADIUS1, FALLOFF1, PROFILE1, HIDE, D, DP, BN,
        PRECISION)  # fmt: skip
    # a query without keys gets zeros
    divisor = tl.where(mass == 0.0, 1.0, mass) if HIDE else mass
    out = total / divisor[:, None]
    to = Out + split * os + batch * ob + h * oh + query[:, None] * on + d[None, :]
    tl.store(to, out.to(Out.dtype.element_ty), mask=some)
    at = (split * tl.num_programs(1) + head) * NQ + query
    tl.store(LogSumExp + at, top / _LOG2_E + tl.log(mass), mask=used)


@triton.jit
def join_splits(Parts, PartLogSumExps, Out, LogSumExp, ob, oh, on, H, NQ, SPLITS: tl.constexpr,
                D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """Attention to all keys from attention to each split of them."""
    head = tl.program_id(1)
    batch, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    query, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, DP)
    used = query < NQ
    some = used[:, None] & (d < D)[None, :]
    top = tl.full((BM,), -float('inf'), tl.float32)
    for split in range(SPLITS):
        at = (split * tl.num_programs(1) + head) * NQ + query
        top = tl.maximum(top, tl.load(PartLogSumExps + at, mask=used, other=0.0))
    shift = tl.where(top == -float('inf'), 0.0, top)
    total, mass = tl.zeros((BM, DP), tl.float32), tl.zeros((BM,), tl.float32)
    for split in range(SPLITS):
        at = (split * tl.num_programs(1) + head) * NQ + query
        share = tl.exp(tl.load(PartLogSumExps + at, mask=used, other=0.0) - shift)
        part = tl.load(Parts + at[:, None] * D + d[None, :], some, 0.0)
        total += part * share[:, None]
        mass += share
    out = total / tl.where(mass == 0.0, 1.0, mass)[:, None]
    to = Out + batch * ob + h * oh + query[:, None] * on + d[None, :]
    tl.store(to, out.to(Out.dtype.element_ty), mask=some)
    tl.store(LogSumExp + head * NQ + query, shift + tl.log(mass), mask=used)


@triton.jit
def gather_queries(Query, GradOut, Out, LogSumExp, Order, Queries, Grads, Offsets, Deltas,
                   qb, qh, qn, gb, gh, gn, ob, oh, on, H, NQ, D: tl.constexpr, DP: tl.constexpr,
                   BM: tl.constexpr):  # fmt: skip
    """What the backward pass reads of the queries, in their order and without gaps.

    ``Offsets`` are the log-sum-exps in units of ln 2, infinite for queries that there are not and
    for those without keys; ``Deltas`` the products of outputs and their gradients.
    """
    tile, head = tl.program_id(0), tl.program_id(1)
    batch, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    position, d = tile * BM + tl.arange(0, BM), tl.arange(0, DP)
    used = position < NQ
    query = tl.load(Order + batch * NQ + position, mask=used, other=0)
    some = used[:, None] & (d < D)[None, :]
    q = tl.load(Query + batch * qb + h * qh + query[:, None] * qn + d[None, :], some, 0.0)
    grad = tl.load(GradOut + batch * gb + h * gh + query[:, None] * gn + d[None, :], some, 0.0)
    out = tl.load(Out + batch * ob + h * oh + query[:, None] * on + d[None, :], some, 0.0)
    offset = tl.load(LogSumExp + head * NQ + query, mask=used, other=float('inf')) * _LOG2_E
    offset = tl.where(offset == -float('inf'), float('inf'), offset)
    to = head.to(tl.int64) * tl.num_programs(0) * BM + position
    tl.store(Queries + to[:, None] * DP + d[None, :], q)
    tl.store(Grads + to[:, None] * DP + d[None, :], grad)
    tl.store(Offsets + to, offset)
    tl.store(Deltas + to, tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1))


@triton.jit
def _differentiate_tile(grad_k, grad_v, k, v, Queries, Grads, Offsets, Deltas, Order, Cells,
                        Strength, GradQuery, GradStrength, batch, query_tile, segment, first, near,
                        unset, scale, NQ, S, SIZE, COLUMNS, RADIUS, FALLOFF,
                        PROFILE: tl.constexpr, HIDE: tl.constexpr, DP: tl.constexpr,
                        BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The gradients from one query tile and one key tile; logits are keys by queries."""
    position, cell = query_tile * BM + tl.arange(0, BM), first + tl.arange(0, BN)
    at = position[:, None] * DP + tl.arange(0, DP)[None, :]
    q, grad = tl.load(Queries + at), tl.load(Grads + at)
    offset, delta = tl.load(Offsets + position), tl.load(Deltas + position)
    logits = tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * _LOG2_E)
    if near:
        used = position < NQ
        query = tl.load(Order + position, mask=used, other=0)
        if not HIDE:
            strength = tl.load(Strength + query * 2, mask=used, other=0.0) * _LOG2_E
        if PROFILE != WHOLE:
            row, column = _middles(Cells, batch, query, used, segment, NQ, S)
            key_row, key_column = _places_of_keys(cell, COLUMNS)
            inside, gain = _gains(row[None, :], column[None, :], key_row[:, None],
                                  key_column[:, None], RADIUS, FALLOFF, PROFILE)  # fmt: skip
            if HIDE:
                logits = tl.where(inside, logits, -float('inf'))
            else:
                logits += tl.where(inside, gain * strength[None, :], 0.0)
        elif not HIDE:
            logits += strength[None, :]
    if first + BN > SIZE:
        logits = tl.where((cell < SIZE)[:, None], logits, -float('inf'))
    p = tl.exp2(logits - offset[None, :])
    grad_v += tl.dot(p.to(grad.dtype), grad, input_precision=PRECISION)
    grad_p = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
    grad_logits = p * (grad_p - delta[None, :])
    rounded = grad_logits.to(q.dtype)
    grad_k += tl.dot(rounded, q, input_precision=PRECISION)
    grad_q = tl.load(GradQuery + at, mask=(position >= unset)[:, None], other=0.0)
    grad_q += tl.dot(tl.trans(rounded), k, input_precision=PRECISION)
    tl.store(GradQuery + at, grad_q)
    if not HIDE:  # noqa: SIM102 (known when the kernel is compiled, the other is not)
        if near:
            along = grad_logits
            if PROFILE != WHOLE:  # found again rather than kept in registers
                used = position < NQ
                query = tl.load(Order + position, mask=used, other=0)
                row, column = _middles(Cells, batch, query, used, segment, NQ, S)
                key_row, key_column = _places_of_keys(cell, COLUMNS)
                inside, gain = _gains(row[None, :], column[None, :], key_row[:, None],
                                      key_column[:, None], RADIUS, FALLOFF, PROFILE)  # fmt: skip
                along = tl.where(inside, grad_logits * gain, 0.0)
            sums = GradStrength + position
            tl.store(sums, tl.load(sums) + tl.sum(along, 0))
    return grad_k, grad_v


@triton.jit
def _differentiate_modality(Key, Value, Queries, Grads, Offsets, Deltas, Order, Boxes, Cells,
                            Strength, GradQuery, GradStrength, GradKey, GradValue, batch, start,
                            stop, step, first_tile, kn, vn, gkn, gvn, scale, NQ, S, query_tiles,
                            BEGIN, SIZE, COLUMNS, RADIUS, FALLOFF, PROFILE: tl.constexpr,
                            HIDE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                            BM: tl.constexpr, BN: tl.constexpr,
                            PRECISION: tl.constexpr):  # fmt: skip
    """Key tiles ``start``, ``start + step``, ... of a modality: gradients from all queries."""
    tiles_of_segment = tl.cdiv(SIZE, BN)
    d = tl.arange(0, DP)
    for tile in range(start, stop, step):
        part = tile // tiles_of_segment
        first = (tile - part * tiles_of_segment) * BN
        cell = first + tl.arange(0, BN)
        some = (cell < SIZE)[:, None] & (d < D)[None, :]
        token = part * SIZE + cell
        k = tl.load(Key + token[:, None] * kn + d[None, :], some, 0.0)
        v = tl.load(Value + token[:, None] * vn + d[None, :], some, 0.0)
        grad_k, grad_v = tl.zeros((BN, DP), tl.float32), tl.zeros((BN, DP), tl.float32)
        # the program's first key tile has nothing to add to
        unset = tl.where(tile == first_tile, _LAST_PLACE, 0)
        if HIDE:
            unset = 0
        for query_tile in range(query_tiles):
            if PROFILE == WHOLE:
                near = tile >= 0
            else:
                box = Boxes + (query_tile * S + BEGIN + part) * 4
                near = _is_near(box, first, COLUMNS, RADIUS, BN)
            if HIDE:
                if near:
                    grad_k, grad_v = _differentiate_tile(
                        grad_k, grad_v, k, v, Queries, Grads, Offsets, Deltas, Order, Cells,
                        Strength, GradQuery, GradStrength, batch, query_tile, BEGIN + part, first,
                        near, unset, scale, NQ, S, SIZE, COLUMNS, RADIUS, FALLOFF, PROFILE, HIDE,
                        DP, BM, BN, PRECISION)  # fmt: skip
            else:
                grad_k, grad_v = _differentiate_tile(
                    grad_k, grad_v, k, v, Queries, Grads, Offsets, Deltas, Order, Cells, Strength,
                    GradQuery, GradStrength, batch, query_tile, BEGIN + part, first, near, unset,
                    scale, NQ, S, SIZE, COLUMNS, RADIUS, FALLOFF, PROFILE, HIDE, DP, BM, BN,
                    PRECISION)  # fmt: skip
        to = GradKey + token[:, None] * gkn + d[None, :]
        tl.store(to, (grad_k * scale).to(GradKey.dtype.element_ty), mask=some)
        to = GradValue + token[:, None] * gvn + d[None, :]
        tl.store(to, grad_v.to(GradValue.dtype.element_ty), mask=some)
        tl.debug_barrier()  # the next key tile adds to what other threads have stored


@triton.jit
def differentiate(Key, Value, Queries, Grads, Offsets, Deltas, Order, Boxes, Cells, Strength,
                  GradQuery, GradStrength, GradKey, GradValue, kb, kh, kn, vb, vh, vn,
                  gkb, gkh, gkn, gvb, gvh, gvn, scale, H, NQ, S, query_tiles,
                  SIZE0, COLUMNS0, RADIUS0, FALLOFF0, TILES0,
                  SIZE1, COLUMNS1, RADIUS1, FALLOFF1, TILES1, START1, SEGMENTS0,
                  PROFILE0: tl.constexpr, PROFILE1: tl.constexpr, HIDE: tl.constexpr,
                  D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    """The gradients of a head from every so many-th key tile.

    A key tile's own gradients are complete. Those of the queries and strengths are sums over the
    program's key tiles, in memory of its own, in a fixed order.
    """
    group, head, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    batch, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    padded = query_tiles * BM
    queries = head.to(tl.int64) * padded
    own = (group * tl.num_programs(1) + head).to(tl.int64) * padded
    K, V = Key + batch * kb + h * kh, Value + batch * vb + h * vh
    DK, DV = GradKey + batch * gkb + h * gkh, GradValue + batch * gvb + h * gvh
    Q, G = Queries + queries * DP, Grads + queries * DP
    offsets, deltas, order = Offsets + queries, Deltas + queries, Order + batch * NQ
    boxes, strengths = Boxes + batch * query_tiles * S * 4, Strength + batch * NQ * 2
    grad_q, grad_strength = GradQuery + own * DP, GradStrength + own * 2
    _differentiate_modality(
        K, V, Q, G, offsets, deltas, order, boxes, Cells, strengths, grad_q, grad_strength, DK, DV,
        batch, group, TILES0, groups, group, kn, vn, gkn, gvn, scale, NQ, S, query_tiles, 0, SIZE0,
        COLUMNS0, RADIUS0, FALLOFF0, PROFILE0, HIDE, D, DP, BM, BN, PRECISION)  # fmt: skip
    _differentiate_modality(
        K + START1 * kn, V + START1 * vn, Q, G, offsets, deltas, order, boxes, Cells,
        strengths + 1, grad_q, grad_strength + padded, DK + START1 * gkn, DV + START1 * gvn, batch,
        (group + groups - TILES0 % groups) % groups, TILES1, groups, group - TILES0, kn, vn, gkn,
        gvn, scale, NQ, S, query_tiles, SEGMENTS0, SIZE1, COLUMNS1, RADIUS1, FALLOFF1, PROFILE1,
        HIDE, D, DP, BM, BN, PRECISION)  # fmt: skip


@triton.jit
def join_groups(Parts, StrengthParts, Order, GradQuery, GradStrength, gqb, gqh, gqn, scale, H, NQ,
                GROUPS: tl.constexpr, HIDE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                BM: tl.constexpr):  # fmt: skip
    """Gradients of queries, and of strengths by head, from those of all programs."""
    tile, head = tl.program_id(0), tl.program_id(1)
    batch, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    position, d = tile * BM + tl.arange(0, BM), tl.arange(0, DP)
    padded = tl.num_programs(0) * BM
    grad_q = tl.zeros((BM, DP), tl.float32)
    lidar, camera = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
    for group in range(GROUPS):
        own = (group * tl.num_programs(1) + head).to(tl.int64) * padded
        grad_q += tl.load(Parts + (own + position)[:, None] * DP + d[None, :])
        if not HIDE:
            lidar += tl.load(StrengthParts + own * 2 + position)
            camera += tl.load(StrengthParts + own * 2 + padded + position)
    used = position < NQ
    query = tl.load(Order + batch * NQ + position, mask=used, other=0)
    to = GradQuery + batch * gqb + h * gqh + query[:, None] * gqn + d[None, :]
    some = used[:, None] & (d < D)[None, :]
    tl.store(to, (grad_q * scale).to(GradQuery.dtype.element_ty), mask=some)
    if not HIDE:
        to_strength = GradStrength + (head * NQ + query) * 2
        tl.store(to_strength, lidar, mask=used)
        tl.store(to_strength + 1, camera, mask=used)
