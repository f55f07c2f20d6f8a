"""FLOPs, bytes and collectives that are read from HLO: written-out snippets, and programs whose counts follow by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from experiments.benchmarks.chips import load_chips
from sweeps.cost import hlo, hlo_buffers, hlo_flops, hlo_traffic, torus
from sweeps.cost.hlo_groups import replica_groups

SNIPPET = """HloModule made_up, num_partitions=8

FileNames
1 "models/thing.py"

FunctionNames
1 "Block.__call__"
2 "Attention.__call__"
3 "fold_stack.<locals>.body"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=1 end_column=1}
2 {file_name_id=1 function_name_id=2 line=9 end_line=9 column=1 end_column=1}
3 {file_name_id=1 function_name_id=3 line=1 end_line=1 column=1 end_column=1}

StackFrames
1 {file_location_id=3 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=3}

%fused_gather.1 (param_0: bf16[4,64]) -> bf16[32,64] {
  %param_0 = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.9 = bf16[32,64]{1,0} all-gather(%param_0), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%sliced (param_0: f32[6,16,16], param_1: s32[]) -> f32[16,16] {
  %param_0 = f32[6,16,16]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %cut = f32[1,16,16]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,16,16}
  ROOT %flat = f32[16,16]{1,0} bitcast(%cut)
}

%body (arg: (s32[], f32[16,16], f32[6,16,16], bf16[4,64])) -> (s32[], f32[16,16], f32[6,16,16], bf16[4,64]) {
  %arg = (s32[], f32[16,16]{1,0}, f32[6,16,16]{2,1,0}, /*index=3*/bf16[4,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[16,16]{1,0} get-tuple-element(%arg), index=1
  %w = f32[6,16,16]{2,1,0} get-tuple-element(%arg), index=2
  %part = bf16[4,64]{1,0} get-tuple-element(%arg), index=3
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %layer = f32[16,16]{1,0} fusion(%w, %i), kind=kLoop, calls=%sliced
  %whole.1 = bf16[32,64]{1,0} fusion(%part), kind=kCustom, calls=%fused_gather.1
  %y = f32[16,16]{1,0} dot(%x, %layer), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="a" stack_frame_id=3}
  %z = f32[16,16]{1,0} all-reduce(%y), channel_id=8, replica_groups=mesh['a'=4,'b'=2] {'b'}, to_apply=%sum
  ROOT %out = (s32[], f32[16,16]{1,0}, f32[6,16,16]{2,1,0}, /*index=3*/bf16[4,64]{1,0}) tuple(%next, %z, %w, %part)
}

%cond (arg.1: (s32[], f32[16,16], f32[6,16,16], bf16[4,64])) -> pred[] {
  %arg.1 = (s32[], f32[16,16]{1,0}, f32[6,16,16]{2,1,0}, /*index=3*/bf16[4,64]{1,0}) parameter(0)
  %count = s32[]{:T(128)} constant(6)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  ROOT %more = pred[] compare(%i.1, %count), direction=LT
}

ENTRY %main (p: f32[16,16], w: f32[6,16,16], q: bf16[4,64]) -> f32[16,16] {
  %p = f32[16,16]{1,0} parameter(0)
  %w.1 = f32[6,16,16]{2,1,0} parameter(1)
  %q = bf16[4,64]{1,0} parameter(2)
  %zero.1 = s32[] constant(0)
  %start = (s32[], f32[16,16]{1,0}, f32[6,16,16]{2,1,0}, /*index=3*/bf16[4,64]{1,0}) tuple(%zero.1, %p, %w.1, %q)
  %loop = (s32[], f32[16,16]{1,0}, f32[6,16,16]{2,1,0}, /*index=3*/bf16[4,64]{1,0}) while(%start), condition=%cond, body=%body
  %again = bf16[32,64]{1,0} fusion(%q), kind=kCustom, calls=%fused_gather.1
  ROOT %end = f32[16,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_written_program_is_counted_by_hand():
    """Six trips of the loop; a channel is counted once though two fusions have it; only a slice of the stack is read."""
    module = hlo.Module(SNIPPET)
    loop = module.computations["main"]["loop"]
    assert module.trips(loop) == 6
    assert module.entry == "main"
    assert module.partitions == 8
    assert hlo_flops.flops(module) == 6 * 2 * 16**3
    each = 4 * 64 * 2  # bytes of one part
    assert hlo_traffic.collective_bytes(module) == {"all-gather": 6 * 7 * each, "all-reduce": 6 * 2 * 1024 // 2}
    # A trip: two scalars read and one written; a slice read and written; a gather; a matmul; an all-reduce.
    trip = 3 * 4 + (2 * 1024 + 4) + (each + 8 * each) + 3 * 1024 + 2 * 1024
    assert hlo_traffic.bytes_in_hbm(module) == 6 * trip + 9 * each
    assert hlo_buffers.source_path(module, module.computations["body"]["y"]) == "Block/Attention"
    largest = hlo_buffers.largest_buffers(module, 2)
    assert [b.bytes for b in largest] == [32 * 64 * 2, 32 * 64 * 2] or largest[0].shape == "bf16[32,64]"


@pytest.mark.parametrize(
    ("rest", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x=1", [[0, 1], [2, 3]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[4,2]T(1,0), x", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("replica_groups={}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_groups_of_devices(rest: str, groups: list[list[int]]):
    assert replica_groups(rest, 8).tolist() == groups


# --- over which links

GATHER = """HloModule gathers, num_partitions=DEVICES

ENTRY %main (p: bf16[64]) -> bf16[64] {
  %p = bf16[64]{0} parameter(0)
  ROOT %out = bf16[64]{0} KIND(%p), channel_id=1, replica_groups=GROUPS, dimensions={0}
}
"""


def places(*topology: int, slices: int = 1, rings: bool = False) -> torus.Places:
    """Devices of slices of a topology in the order of their places, x first; `rings`: all axes close."""
    chips = [place for _ in range(slices) for place in itertools.product(*map(range, topology))]
    padded = np.array([(*place, 0, 0)[:3] for place in chips])
    return torus.Places(padded, np.repeat(np.arange(slices), len(chips) // slices), [rings] * 3)


def traffic_of(kind: str, groups: str, at: torus.Places) -> hlo_traffic.Traffic:
    text = GATHER.replace("KIND", kind).replace("GROUPS", groups).replace("DEVICES", str(len(at.chips)))
    return hlo_traffic.traffic(hlo.Module(text), at)


@pytest.mark.parametrize(
    ("kind", "groups", "by_axes"),
    [
        ("all-gather", "[4,4]<=[16]", {"y": 3 * 128}),
        ("all-gather", "[4,4]<=[4,4]T(1,0)", {"x": 3 * 128}),
        ("all-gather", "[1,16]<=[16]", {"xy": 15 * 128}),
        ("all-reduce", "[1,16]<=[16]", {"xy": 2 * 120}),
        ("reduce-scatter", "[4,4]<=[16]", {"y": 96}),
        ("all-gather", "[8,2]<=[16]", {"y": 128}),
        ("all-gather", "[16,1]<=[16]", {}),
    ],
)
def test_collectives_go_over_the_axes_of_their_groups(kind: str, groups: str, by_axes: dict[str, float]):
    """128 bytes on each of 4 x 4 chips."""
    assert traffic_of(kind, groups, places(4, 4)) == hlo_traffic.Traffic(by_axes, 0.0)


def test_what_takes_up_a_part_of_a_ring_cannot_go_round():
    """Two neighbours of four, and all four of them."""
    assert traffic_of("all-gather", "[8,2]<=[16]", places(4, 4, rings=True)).by_axes == {"y": 2 * 128}
    assert traffic_of("all-gather", "[4,4]<=[16]", places(4, 4, rings=True)).by_axes == {"y": 3 * 128}


@pytest.mark.parametrize(
    ("kind", "groups", "by_axes", "to_slices"),
    [
        ("all-gather", "[1,8]<=[8]", {"xy": 2 * 3 * 128}, 128),
        ("all-reduce", "[1,8]<=[8]", {"xy": 2 * 96}, 2 * 64 / 4),
        ("all-reduce", "[4,2]<=[2,4]T(1,0)", {}, 2 * 64),
        ("reduce-scatter", "[1,8]<=[8]", {"xy": 96}, 64 / 4),
        ("all-to-all", "[1,8]<=[8]", {"xy": 128 * 3 / 8}, 64),
        ("all-reduce", "[2,4]<=[8]", {"xy": 2 * 96}, 0),
    ],
)
def test_what_crosses_slices_is_counted_apart(kind: str, groups: str, by_axes: dict[str, float], to_slices: float):
    """128 bytes on each chip of two slices of 2 x 2: a slice sends what the other has not, with all its chips."""
    assert traffic_of(kind, groups, places(2, 2, slices=2)) == hlo_traffic.Traffic(by_axes, to_slices)


MEGASCALE = """HloModule crosses, num_partitions=8

%body (p: (s32[], bf16[64,8])) -> (s32[], bf16[64,8]) {
  %p = (s32[], bf16[64,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %part = bf16[64,8]{1,0} get-tuple-element(%p), index=1
  %after = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="psum.127_0"}
  %send.57 = (bf16[64,8]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%part, %after), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="psum.127_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="SLICESx{0:3}",_xla_megascale_transfer_type="KIND"}
  ROOT %out = (s32[], bf16[64,8]{1,0}) tuple(%i, %part)
}

%cond (q: (s32[], bf16[64,8])) -> pred[] {
  %q = (s32[], bf16[64,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%j, %three), direction=LT
}

ENTRY %main (a: (s32[], bf16[64,8])) -> (s32[], bf16[64,8]) {
  %a = (s32[], bf16[64,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[64,8]{1,0}) while(%a), condition=%cond, body=%body
}
"""


@pytest.mark.parametrize(
    ("kind", "slices", "sent"),
    [
        ("ALL_REDUCE", "{1,2}", 1024),
        ("ALL_REDUCE", "{0:3}", 2 * 3 / 4 * 1024),
        ("ALL_GATHER", "{0:3}", 3 * 1024),
        ("REDUCE_SCATTER", "{0,2:4}", 3 / 4 * 1024),
        ("ALL_TO_ALL", "{1,2}", 512),
    ],
)
def test_transfers_of_libtpu_between_slices_are_counted(kind: str, slices: str, sent: float):
    """1,024 bytes of each device enter, three times, as libtpu writes it for a program on several slices."""
    text = MEGASCALE.replace("KIND", kind).replace("SLICES", slices)
    assert hlo_traffic.traffic(hlo.Module(text), places(2, 2, slices=2)).to_slices == 3 * sent


CHIPS = load_chips()


@pytest.mark.parametrize(
    ("chip", "topology", "rings"),
    [
        ("v5e", (16, 16), [True, True]),
        ("v5e", (8, 16), [False, True]),
        ("v6e", (8, 8), [False, False]),
        ("v5p", (4, 4, 4), [True, True, True]),
        ("v5p", (4, 4, 12), [True, True, True]),
        ("v5p", (2, 4, 4), [False, False, False]),
        ("tpu7x", (2, 2, 2), [False, False, False]),
    ],
)
def test_axes_close_to_rings_in_a_pod_or_in_whole_cubes(chip: str, topology: tuple[int, ...], rings: list[bool]):
    assert torus.closes(CHIPS[chip], topology) == rings


@pytest.mark.parametrize(
    ("sent", "topology", "seconds"),
    [
        ({"x": 100e9, "y": 50e9}, (16, 16), 1.0),  # side by side, not one after the other
        ({"x": 100e9}, (8, 16), 2.0),  # no ring: one link
        ({"y": 100e9}, (8, 16), 1.0),
        ({"xy": 100e9}, (16, 16), 0.5),  # over both
        ({"xy": 150e9}, (8, 16), 1.0),
        ({"x": 100e9, "xy": 100e9}, (16, 16), 1.0),  # what may go over both goes over y
        ({"x": 100e9, "xy": 200e9}, (16, 16), 1.5),
        ({}, (16, 16), 0.0),
    ],
)
def test_the_time_of_the_network_is_that_of_its_busiest_axes(
    sent: dict[str, float], topology: tuple[int, ...], seconds: float
):
    """A v5e sends 100 GB/s over the two links of an axis."""
    assert torus.ici_seconds(sent, CHIPS["v5e"], topology) == pytest.approx(seconds)


def test_a_batched_matmul_as_a_convolution_counts_each_batch_entry_once():
    """As a TPU writes it: 2 x 8 batch entries of [256, 64] x [64, 1024]."""
    left = hlo.Instruction("l", "parameter", "bf16[2,8,256,64]{3,2,1,0}", (), "", False)
    right = hlo.Instruction("r", "parameter", "bf16[2,8,1024,64]{3,2,1,0}", (), "", False)
    window = "window={size=2x8 stride=1x7 lhs_dilate=2x8}, dim_labels=01bf_01oi->01bf"
    out = hlo.Instruction("o", "convolution", "f32[2,8,256,1024]{3,2,1,0:T(8,128)}", ("l", "r"), window, True)
    assert hlo_flops.matmul_flops(out, {"l": left, "r": right}) == 2 * 2 * 8 * 256 * 1024 * 64


KERNEL = """HloModule attends

ENTRY %main (skip: s8[1,4,4], q: bf16[2,8,2048,64], k: bf16[2,4,2048,64]) -> bf16[2,8,2048,64] {
  %skip = s8[1,4,4]{2,1,0} parameter(0)
  %q = bf16[2,8,2048,64]{3,2,1,0} parameter(1)
  %k = bf16[2,4,2048,64]{3,2,1,0} parameter(2)
  %out = bf16[2,8,2048,64]{3,2,1,0} custom-call(%skip, %q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/shard_map/attention_pairs_1000_3000_WAY/vmap(x)/splash_mha_PHASE_residuals/pallas_call"}
  ROOT %other = bf16[2,8,2048,64]{3,2,1,0} custom-call(%out), custom_call_target="tpu_custom_call", metadata={op_name="gmm"}
}
"""


@pytest.mark.parametrize(
    ("phase", "way", "products", "pairs"),
    [("fwd", "fused", 2, 1000), ("dkv", "fused", 5, 3000), ("dkv", "apart", 4, 3000), ("dq", "apart", 3, 3000)],
)
def test_attention_kernels_multiply_the_pairs_that_they_visit(phase: str, way: str, products: int, pairs: int):
    """Of 2 x 8 heads of size 64; the other kernel stays one whose FLOPs nobody counts."""
    module = hlo.Module(KERNEL.replace("PHASE", phase).replace("WAY", way))
    assert hlo_flops.flops(module) == 2 * products * pairs * 2 * 8 * 64
    assert hlo_flops.uncounted_kernels(module) == {"tpu_custom_call": 1.0}


def test_types_and_places():
    """Sizes of types; what lies in a TPU's fast memory is told apart."""
    found = hlo.shapes("(f32[2,3]{1,0:T(8,128)S(1)}, bf16[], /*index=2*/pred[7]{0}, s4[6], f8e4m3fn[5])")
    assert [shape.bytes for shape in found] == [24, 2, 7, 3, 5]
    assert [shape.in_hbm for shape in found] == [False, True, True, True, True]


# --- real programs on eight simulated devices

LAYERS = 6
WIDTH = 64
HIDDEN = 256
ROWS = 512


def compiled(names: tuple[str, ...], sizes: tuple[int, ...], weights: list[P], data: P, hidden: P) -> hlo.Module:
    """Value and gradient of a scanned stack of two matmuls with a relu between, split as told."""
    mesh = jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
    place = functools.partial(NamedSharding, mesh)

    def loss(w, x):
        def layer(x, w):
            h = jax.lax.with_sharding_constraint(jax.nn.relu(x @ w[0]), place(hidden))
            return jax.lax.with_sharding_constraint(x + h @ w[1], place(data)), None

        return jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)

    shapes = [(LAYERS, WIDTH, HIDDEN), (LAYERS, HIDDEN, WIDTH)]
    w = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=place(p)) for s, p in zip(shapes, weights, strict=True)]
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=place(data))
    outs = (place(P()), [place(p) for p in weights])
    return hlo.Module(jax.jit(jax.value_and_grad(loss), out_shardings=outs).lower(w, x).compile().as_text())


def test_one_device_has_no_collectives_and_all_flops():
    """Forward 2, backward 4 multiply-adds a weight and row, but for the gradient of the first layer's input."""
    module = compiled(("a",), (1,), [P(), P()], P(), P())
    assert hlo_traffic.collective_bytes(module) == {}
    assert hlo_flops.flops(module) == 6 * LAYERS * 2 * WIDTH * HIDDEN * ROWS


def test_fsdp_sends_what_it_must():
    """Weights gathered in the forward and the backward pass, gradients reduced: no less, and little more."""
    n = 8
    weights = 4 * LAYERS * 2 * WIDTH * HIDDEN
    module = compiled(("f",), (n,), [P(None, "f", None), P(None, None, "f")], P("f", None), P("f", None))
    found = hlo_traffic.collective_bytes(module)
    part = (n - 1) / n * weights
    assert hlo_flops.flops(module) == pytest.approx(6 * LAYERS * 2 * WIDTH * HIDDEN * ROWS / n)
    assert found["all-gather"] == pytest.approx(2 * part, rel=0.01)
    # A CPU has no fused reduce-scatter: it reduces all and keeps a part, which sends twice the bytes.
    reduced = found.get("reduce-scatter", 0) + found.get("all-reduce", 0) / 2
    assert reduced == pytest.approx(part, rel=0.02)
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_tensor_parallel_sends_what_it_must():
    """One all-reduce of the activations a layer forward, and one backward."""
    n = 8
    module = compiled(("t",), (n,), [P(None, None, "t"), P(None, "t", None)], P(), P(None, "t"))
    activations = 4 * ROWS * WIDTH
    assert hlo_traffic.collective_bytes(module) == {
        "all-reduce": pytest.approx(2 * LAYERS * 2 * (n - 1) / n * activations, rel=0.01)
    }


def test_loops_count_as_if_unrolled():
    """A scan of matmuls inside a scan; the compiler itself counts an unrolled program."""

    def run(unroll):
        def inner(x, w):
            return jnp.tanh(x @ w), None

        def outer(x, w):
            return jax.lax.scan(inner, x, w, unroll=unroll)[0], None

        def f(x, w):
            return jax.lax.scan(outer, x, w, unroll=unroll)[0]

        x = np.zeros((32, 48), np.float32)
        w = np.zeros((3, 5, 48, 48), np.float32)
        return jax.jit(f).lower(x, w).compile()

    loops = run(1)
    unrolled = run(True)
    expected = 15 * 2 * 32 * 48 * 48
    assert hlo_flops.flops(hlo.Module(loops.as_text())) == expected
    assert hlo_flops.flops(hlo.Module(unrolled.as_text())) == pytest.approx(expected)
    assert loops.cost_analysis()["flops"] < expected / 2, "what the compiler counts of a loop"


AWAY = """HloModule away

%body (p: (s32[], f32[4,8], f32[3,8])) -> (s32[], f32[4,8], f32[3,8]) {
  %p = (s32[], f32[4,8]{1,0:S(5)}, f32[3,8]{1,0:S(5)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %moments = f32[4,8]{1,0:T(8,128)S(5)} get-tuple-element(%p), index=1
  %inputs = f32[3,8]{1,0:T(8,128)S(5)} get-tuple-element(%p), index=2
  %copy-start = (f32[4,8]{1,0:T(8,128)}, f32[4,8]{1,0:T(8,128)S(5)}, u32[]{:S(2)}) copy-start(%moments)
  %copy-done = f32[4,8]{1,0:T(8,128)} copy-done(%copy-start)
  %layer-start = ((f32[3,8]{1,0:T(8,128)S(5)}, s32[], s32[]), f32[1,8]{1,0:T(8,128)}, u32[]) dynamic-slice-start(%inputs, %i, %i)
  %layer = f32[1,8]{1,0:T(8,128)} dynamic-slice-done(%layer-start)
  %kept-start = ((f32[3,8]{1,0:S(5)}, f32[1,8]{1,0}, s32[], s32[]), f32[3,8]{1,0:S(5)}, u32[]) dynamic-update-slice-start(%inputs, %layer, %i, %i)
  %kept = f32[3,8]{1,0:T(8,128)S(5)} dynamic-update-slice-done(%kept-start)
  %local = f32[4,8]{1,0:T(8,128)S(1)} copy(%copy-done)
  ROOT %out = (s32[], f32[4,8]{1,0:S(5)}, f32[3,8]{1,0:S(5)}) tuple(%i, %moments, %kept)
}

%cond (q: (s32[], f32[4,8], f32[3,8])) -> pred[] {
  %q = (s32[], f32[4,8]{1,0:S(5)}, f32[3,8]{1,0:S(5)}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%j, %three), direction=LT
}

ENTRY %main (a: (s32[], f32[4,8], f32[3,8])) -> (s32[], f32[4,8], f32[3,8]) {
  %a = (s32[], f32[4,8]{1,0:S(5)}, f32[3,8]{1,0:S(5)}) parameter(0)
  ROOT %loop = (s32[], f32[4,8]{1,0:S(5)}, f32[3,8]{1,0:S(5)}) while(%a), condition=%cond, body=%body
}
"""


def test_what_moves_between_a_chip_and_its_host_is_counted_each_way():
    """Three times a copy of 128 bytes and a layer of 32 come; a layer of 32 goes; a copy on the chip is none."""
    assert hlo_traffic.host_bytes(hlo.Module(AWAY)) == 3 * (128 + 32)
    assert hlo_traffic.host_bytes(hlo.Module(AWAY.replace("S(5)", ""))) == 0


@pytest.mark.parametrize("branches", [(1, 2), (2, 1), (0, 1, 3)])
def test_of_a_conditional_the_largest_branch_counts(branches: tuple[int, ...]):
    """So many matmuls in each branch: one branch runs, not all. In a loop of four, it runs four times."""

    def branch(matmuls: int):
        def apply(x):
            for _ in range(matmuls):
                x = jnp.tanh(x @ x)
            return x

        return apply

    def step(x, which):
        return jax.lax.switch(which, [branch(matmuls) for matmuls in branches], x), None

    def f(x, which):
        return jax.lax.scan(step, x, which)[0]

    x = jnp.zeros((32, 32))
    module = hlo.Module(jax.jit(f).lower(x, jnp.zeros(4, jnp.int32)).compile().as_text())
    opcodes = {executed.instruction.opcode for executed in module.executed()}
    assert "conditional" in opcodes, "the compiler has kept it"
    assert hlo_flops.flops(module) == 4 * max(branches) * 2 * 32**3
