"""A plan for people to read, and what to change where it does not fit."""

from collections.abc import Iterator

from data_tools.reports.text_tables import as_text
from fmrifm.plan.feeding import describe_feeding
from fmrifm.plan.plan import Plan

_GIB = 2**30
_PARTS = ("compute", "memory", "network")
_SMALL_PART = 8  # clips a chip, see "Small parts" in docs/scaling.md


def describe(plan: Plan) -> str:
    """The plan as a table of lines."""
    lines = [line.rstrip() for line in as_text(list(_rows(plan)), left=2)]
    return "\n".join([*lines, "", verdict(plan)])


def verdict(plan: Plan) -> str:
    """Whether it fits, what bounds it, and what to change."""
    peak, limit = plan["hbm_bytes"]["peak"], plan["hbm_bytes"]["limit"]
    if not plan["fits"]:
        return (
            f"Does not fit: {_gib(peak)} of {_gib(limit)} on each chip, {_gib(peak - limit)} too "
            f"much. {_advice(plan)}"
        )
    seconds = plan["step_seconds"]
    if seconds["predicted"] is None:
        return "Compiled. What these devices can do at their peak is not in our table."
    bound = max(_PARTS, key=seconds.get)
    told = (
        f"Fits, and is bound by {bound}: at most {plan['mfu_bound']:.0%} utilisation, "
        f"{plan['clips_per_second']:,.0f} clips/s."
    )
    if bound == "memory" and plan["batch_per_chip"] / plan["accumulation"] > _SMALL_PART:
        told += (
            f" Parts of {_SMALL_PART} clips a chip (--config.optim.accumulation) may read and "
            "write less, as more of their activations stay in fast memory."
        )
    return told


def _advice(plan: Plan) -> str:
    steps = {"none": "dots", "dots": "attention", "attention": "full"}
    ways = []
    if plan["attention"] == "xla":
        ways.append("--config.attention=auto")
    if plan["remat"] in steps:
        ways.append(f"--config.model.remat={steps[plan['remat']]}")
    if plan["batch_per_chip"] > 1:
        ways.append("fewer clips a chip, with --config.optim.accumulation for the rest")
    state, mesh = sum(plan["state_bytes"].values()), plan["mesh"]
    most = plan["chips"] // (mesh["dcn_data"] * mesh["tensor"])
    if state > plan["hbm_bytes"]["limit"] / 4 and mesh["fsdp"] < most:
        ways.append(
            f"--config.mesh.fsdp={most} --config.mesh.data=1 (the state takes {_gib(state)})"
        )
    return f"Try {', or '.join(ways)}." if ways else "Take more chips."


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    mesh = ", ".join(f"{name} {size}" for name, size in plan["mesh"].items() if size > 1)
    yield "topology", f"{plan['topology']}, {plan['chips']} x {plan['device']}"
    yield "mesh", mesh or "one device"
    parts = f" in {plan['accumulation']} parts" if plan["accumulation"] > 1 else ""
    yield "batch", f"{plan['batch_size']:,} clips, {plan['batch_per_chip']:g} a chip{parts}"
    yield "attention, remat", f"{plan['attention']}, {plan['remat']}"
    yield "parameters", f"{plan['params'] / 1e6:,.1f} M"
    state = plan["state_bytes"]
    yield (
        "state on a chip",
        f"parameters {_gib(state['params'])}, optimizer {_gib(state['optimizer'])}",
    )
    memory = plan["hbm_bytes"]
    of = f" of {_gib(memory['limit'])}" if memory["limit"] else ""
    parts = ""
    if memory["arguments"] is not None:
        parts = (
            f" (arguments {_gib(memory['arguments'])}, temporaries {_gib(memory['temporaries'])})"
        )
    yield "memory on a chip", f"{_gib(memory['peak'])}{of}{parts}"
    flops = plan["flops_per_clip"]
    yield (
        "operations a clip",
        f"{flops['total'] / 1e9:,.1f} G, attention {_share(flops, 'attention')}; again in the "
        f"backward pass {_share(flops, 'recompute')}; tokens off cortex would add "
        f"{_share(flops, 'off_cortex')}",
    )
    yield (
        "  with padding",
        f"{flops['with_padding'] / 1e9:,.1f} G to fill the matrix unit, with what is done again",
    )
    yield "  counted by XLA", f"{plan['xla_flops'] / 1e9:,.1f} G, elementwise ones included"
    if plan["hbm_traffic_bytes"] is not None:
        yield "memory traffic", f"{_gib(plan['hbm_traffic_bytes'])} a step"
    for c in plan["collectives"]:
        yield f"  {c['op']}", f"over {c['axis']}: {_gib(c['bytes'])} a step in {c['count']}"
    seconds = plan["step_seconds"]
    if seconds["predicted"] is not None:
        told = ", ".join(f"{part} {1e3 * seconds[part]:,.1f}" for part in _PARTS)
        yield "step, at least", f"{1e3 * seconds['predicted']:,.1f} ms ({told})"
        yield "utilisation", f"at most {plan['mfu_bound']:.1%}"
        yield "clips a second", f"at most {plan['clips_per_second']:,.0f}"
        yield from describe_feeding(plan["feeding"])
    yield "compiled in", f"{plan['compile_seconds']:,.0f} s"


def _gib(value: float) -> str:
    return f"{value / _GIB:,.2f} GiB"


def _share(flops: dict[str, float], name: str) -> str:
    return f"{flops[name] / flops['total']:.1%}"
