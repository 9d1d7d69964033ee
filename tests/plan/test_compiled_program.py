"""What is read from a compiled program: messages by mesh axis, loops, and what is only sliced."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fmrifm.plan.compiled_program import CompiledProgram

TPU = """HloModule m

%inner (param_0: f32[12,8,128], param_1: s32[]) -> f32[8,128] {
  %param_0 = f32[12,8,128]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %slice.1 = f32[1,8,128]{2,1,0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,8,128}
  ROOT %bitcast.1 = f32[8,128]{1,0} bitcast(%slice.1)
}

%body (p: (s32[], f32[12,8,128])) -> (s32[], f32[12,8,128]) {
  %p = (s32[], f32[12,8,128]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[12,8,128]{2,1,0} get-tuple-element(%p), index=1
  %one = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%inner
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%one), channel_id=1, GROUPS, to_apply=%add
  ROOT %t = (s32[], f32[12,8,128]{2,1,0}) tuple(%i, %x)
}

%condition (q: (s32[], f32[12,8,128])) -> pred[] {
  %q = (s32[], f32[12,8,128]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %n = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[12,8,128], z: s32[]) -> f32[12,8,128] {
  %a = f32[12,8,128]{2,1,0} parameter(0)
  %z = s32[] parameter(1)
  %t = (s32[], f32[12,8,128]{2,1,0}) tuple(%z, %a)
  %loop = (s32[], f32[12,8,128]{2,1,0}) while(%t), condition=%condition, body=%body
  ROOT %out = f32[12,8,128]{2,1,0} get-tuple-element(%loop), index=1
}
"""
AXES = {"data": 2, "fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(
    "groups, axis, size",
    [
        ("replica_groups={{0,8},{1,9},{2,10},{3,11},{4,12},{5,13},{6,14},{7,15}}", "data", 2),
        ("replica_groups=[8,2]<=[16]", "tensor", 2),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1)", "fsdp", 4),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a', 'b'}", "data+fsdp", 8),
        ("replica_groups=mesh['a'=4,'b'=4], device_ids=([2,4,2]T(1,0,2)) {'a'}", "fsdp", 4),
        ("replica_groups={}", "data+fsdp+tensor", 16),
        ("replica_groups={{0,3},{1,2}}", "?", 2),
    ],
)  # fmt: skip
def test_messages_count_as_often_as_their_loop_runs(groups, axis, size):
    (found,) = CompiledProgram(TPU.replace("GROUPS", groups)).collectives(AXES)
    assert (found.op, found.axis, found.size, found.count) == ("all-reduce", axis, size, 12)
    assert found.bytes == 12 * 8 * 128 * 4
    assert found.sent == pytest.approx(2 * found.bytes * (size - 1) / size)


def test_loops_that_take_several_parts_at_a_time():
    """As the compiler makes of products with split weights: u32 counters that grow by two."""
    text = TPU.replace("GROUPS", "replica_groups={}").replace("s32[]", "u32[]")
    step = "  %two = u32[] constant(2)\n  %j = u32[] add(%i, %two)\n  ROOT %t = "
    text = text.replace("  ROOT %t = ", step, 1).replace("tuple(%i, %x)", "tuple(%j, %x)")
    (found,) = CompiledProgram(text).collectives(AXES)
    assert found.count == 6


def test_what_hosts_exchange_between_slices():
    send = """  %send = (f32[8,128]{1,0}, u32[], token[]) send(%one, %token), channel_id=2, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %t ="""
    text = TPU.replace("  ROOT %t =", send, 1).replace("GROUPS", "replica_groups={{0,1}}")
    found = CompiledProgram(text).collectives({"dcn_data": 2, "data": 2})
    assert {(c.op, c.axis, c.count) for c in found} == {
        ("all-reduce", "dcn_data", 12), ("all-reduce", "data", 12),
    }  # fmt: skip
    assert {c.bytes for c in found} == {12 * 8 * 128 * 4}


@pytest.mark.parametrize("kind", ["async-start", "fusion"])
def test_messages_behind_the_back_of_others_count(kind):
    started = """%hidden (h: f32[8,128]) -> f32[16,128] {
  %h = f32[8,128]{1,0} parameter(0)
  ROOT %g = f32[16,128]{1,0} all-gather(%h), channel_id=3, GROUPS, dimensions={0}
}

%body """
    text = TPU.replace("%body ", started, 1).replace(
        "  ROOT %t =", "  %start = ((f32[8,128]), f32[16,128], u32[]) KIND(%one), "
        "calls=%hidden\n  %done = f32[16,128] async-done(%start)\n  ROOT %t =", 1,
    )  # fmt: skip
    found = CompiledProgram(
        text.replace("KIND", kind).replace("GROUPS", "replica_groups=[8,2]<=[16]")
    ).collectives(AXES)
    gather = next(c for c in found if c.op == "all-gather")
    assert (gather.bytes, gather.count) == (12 * 16 * 128 * 4, 12)


def test_a_message_beside_other_work_counts_once():
    """It begins in one operation, with flags of -1, and goes on in others."""
    flags = ', backend_config={"async_collective_fusion_config":{"flag_end":"X","flag_start":"Y"}}'
    sums = re.search(r"  %sum = .*\n", TPU.replace("GROUPS", "replica_groups={}"))[0]
    parts = [sums.replace("\n", flags.replace("X", x).replace("Y", y) + "\n")
             for x, y in (("-1", "-1"), ("8", "2"), ("8", "2"))]  # fmt: skip
    text = re.sub(r"  %sum = .*\n", lambda _: "".join(parts), TPU)
    (found,) = CompiledProgram(text).collectives(AXES)
    assert found.count == 12


@pytest.mark.parametrize(
    "branches",
    ["true_computation=%body, false_computation=%condition", "branch_computations={%body}, x={}"],
)
def test_branches_count(branches):
    loop = "while(%t), condition=%condition, body=%body"
    text = TPU.replace(loop, f"conditional(%z, %t, %t), {branches}")
    (found,) = CompiledProgram(text.replace("GROUPS", "replica_groups={}")).collectives(AXES)
    assert found.count == 1


def test_traffic_is_of_slices_and_of_main_memory():
    """12 times: a slice is read; its sum, which lies in fast memory, is not, but goes out."""
    text = CompiledProgram(TPU.replace("GROUPS", "replica_groups={}"))
    counters = 12 * 4  # the index that says which slice
    assert text.traffic() == 12 * 2 * 8 * 128 * 4 + counters


def compiled(step, mesh, *places):
    shardings = [NamedSharding(mesh, PartitionSpec(*place)) for place in places]
    shapes = [jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=s) for s in shardings[:-1]]
    return CompiledProgram(
        jax.jit(step, out_shardings=shardings[-1]).lower(*shapes).compile().as_text()
    )


def test_programs_of_this_platform_are_read():
    devices = np.array(jax.devices()[:8]).reshape(2, 2, 2)
    mesh = Mesh(devices, tuple(AXES), axis_types=(AxisType.Auto,) * 3)
    axes = dict(mesh.shape)
    text = compiled(lambda x, y: x @ y, mesh, (None, "fsdp"), ("fsdp", None), (None, None))
    sums = [c for c in text.collectives(axes) if c.axis == "fsdp"]
    assert [(c.op, c.bytes) for c in sums] == [("all-reduce", 64 * 64 * 4)]
    text = compiled(lambda x: x, mesh, ("tensor", None), (None, None))
    assert [(c.op, c.axis) for c in text.collectives(axes)] == [("all-gather", "tensor")]

    def looped(length, x, y):
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ y), None), x, length=length)[0]

    places = ("data",), ("data",), ("data",)
    short, long = (compiled(functools.partial(looped, n), mesh, *places) for n in (10, 40))
    assert 3 * short.traffic() < long.traffic() <= 4 * short.traffic()
