"""Print a plan for a reader: one row a signature, what does not fit and what would help, and the bill.

The plan is the JSON of sweeps/cost/study_plan.py.
"""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

SHOWN = 5  # buffers of a program that does not fit
LEAST_WIDTH = 120  # a narrower terminal breaks lines rather than lose columns
NARROW_COLUMNS = ("signature", "mesh", "bound by")  # text, which may be folded
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))

Plan = dict[str, Any]
Signature = dict[str, Any]  # one of a plan's signatures


def show(console: Console, plan: Plan, name: str) -> None:
    """Print a plan. `name`: of the study."""
    console.width = max(console.width, LEAST_WIDTH)
    is_compiled = plan["topology"] is not None
    tables = [_compiled_table(plan, name), _step_table(plan)] if is_compiled else [_measured_table(plan, name)]
    for table in tables:
        console.print(table)
    for signature in plan["signatures"]:
        if not signature["fits"] and plan["target"] != "cpu":
            _print_too_large(console, signature)
        if signature["opaque_kernels"]:
            kernels = ", ".join(signature["opaque_kernels"])
            console.print(f"{signature['name']}: FLOPs of {kernels} are not counted", markup=False)
    _print_totals(console, plan)
    if is_compiled:
        totals = plan["totals"]
        known = f"{totals['compiled']} programs compiled, {totals['remembered']} known from before"
        console.print(f"{known}; step times are bounds: a real step takes longer")


# --- the tables


def _measured_table(plan: Plan, name: str) -> Table:
    """Say what each signature takes on this machine, as it was measured."""
    table = Table(title=f"{name} on {plan['target']}")
    unit = "seconds" if plan["chip"] else "core s"
    heads = ("signature", "runs", "parameters", "tokens", "FLOPs/step", "FLOPs", "peak MB", "fits")
    for head in (*heads, "ms/step", "compile s", unit):
        table.add_column(head, justify="left" if head == "signature" else "right")
    for signature in plan["signatures"]:
        peak = signature["peak_bytes"]
        cells = [
            signature["name"],
            signature["runs"],
            f"{signature['params_total']:,}",
            f"{signature['tokens']:,}",
            f"{signature['flops_per_step']:.3g}",
            f"{signature['flops']:.3g}",
            "?" if peak is None else f"{peak / 1e6:.1f}",
            _yes_or_no(signature),
            _milliseconds(signature),
            f"{signature['compile_seconds']:.1f}",
            f"{signature['seconds']:.0f}",
        ]
        table.add_row(*map(str, cells))
    return table


def _compiled_table(plan: Plan, name: str) -> Table:
    """Say what runs where, whether it fits, and what it takes."""
    chips = plan["totals"]["chips"]
    date = plan["chip"]["date"]
    slices = plan.get("slices", 1)
    shape = plan["topology"] if slices == 1 else f"{slices} slices of {plan['topology']}"
    table = Table(title=f"{name} on {plan['target']}: {chips} chips ({shape}), of {date}")
    heads = ("signature", "runs", "params", "mesh", "at once", "fits", "step GB", "eval", "save")
    _add_columns(table, [*heads, "ms/step", "bound by", "MFU", "time"])
    for signature in plan["signatures"]:
        cells = [
            signature["name"],
            signature["runs"],
            f"{signature['params_total']:.3g}",
            _mesh(signature["mesh"]),
            signature["trials_per_program"],
            _yes_or_no(signature),
            _gigabytes(signature["peak_bytes"]),
            _gigabytes(signature["peak_evaluation_bytes"]),
            _gigabytes(signature["peak_checkpoint_bytes"]),
        ]
        if signature["fits"]:
            times = [_milliseconds(signature), signature["bound_by"], f"{signature['mfu_bound']:.0%}"]
            cells += [*times, _time(signature["seconds"])]
        table.add_row(*map(str, cells))
    return table


def _step_table(plan: Plan) -> Table:
    """Say what a step multiplies, and what a chip sends in it by kind of collective."""
    chips = plan["totals"]["chips"]
    kinds = sorted({kind for signature in plan["signatures"] for kind in signature["collective_bytes"]})
    table = Table(title="a step of each run: FLOPs by the ledger, compiled ones over them; MB that a chip sends in all")
    heads = [kind.replace("-", "-\n", 1) for kind in kinds]
    _add_columns(table, ["signature", "FLOPs", "compiled", *heads, "compile s"])
    for signature in plan["signatures"]:
        ledger_flops = signature["flops_per_step"] * signature["trials_per_program"]
        compiled_flops = (signature["flops_compiled"] or 0) * chips
        cells = [signature["name"], f"{signature['flops_per_step']:.3g}"]
        if signature["fits"]:
            sent = signature["collective_bytes"]
            cells.append(f"{compiled_flops / ledger_flops:.2f}")
            cells += [f"{sent.get(kind, 0) / 1e6:.4g}" for kind in kinds]
        else:
            cells += ["", *("" for _ in kinds)]
        table.add_row(*cells, f"{signature['compile_seconds']:.0f}")
    return table


def _add_columns(table: Table, heads: Sequence[str]) -> None:
    """Add columns of which numbers keep to one line; a narrow terminal folds names."""
    table.box = box.SIMPLE_HEAD
    table.padding = (0, 1, 0, 0)
    for head in heads:
        if head in NARROW_COLUMNS:
            table.add_column(head, justify="left", min_width=12)
        else:
            table.add_column(head, justify="right", no_wrap=True)


# --- the lines below them


def _print_totals(console: Console, plan: Plan) -> None:
    """Print what the study takes in all, its storage and its longest line of runs."""
    totals = plan["totals"]
    size = f"{totals['runs']} runs, {totals['tokens']:,} tokens, {totals['flops']:.3g} FLOPs"
    if plan["target"] == "cpu":
        hours = f"{totals['chip_hours']:.3f} core hours"
        console.print(f"{size}: about {totals['seconds']:.0f} s on {totals['workers']} cores ({hours})")
    else:
        console.print(f"{size}: {_bill(plan)}", markup=False)
    storage = f"checkpoints up to {_size(totals['checkpoint_storage_bytes'])}"
    path = f"longest line of runs {_time(totals['critical_path_seconds'])}"
    if len(totals["critical_path"]) > 1:
        path += f" ({' -> '.join(totals['critical_path'])})"
    console.print(f"{storage}; {path}", markup=False)


def _bill(plan: Plan) -> str:
    """Say how long how many chips are needed, and what they cost."""
    totals = plan["totals"]
    chip = plan["chip"]
    least = "at least " if plan["topology"] else ""  # a bound, and no measurement
    time = f"{least}{_time(totals['seconds'])} on {totals['chips']} chips"
    hours = f"{least}{totals['chip_hours']:.3g} chip hours"
    if totals["energy_kwh"] is not None:
        hours += f", about {totals['energy_kwh']:,.3g} kWh and {totals['co2e_kg']:,.3g} kg CO2e"
    if totals["price_usd"] is None:
        return f"{time}, {hours}; no list price is known"
    price = f"{least}{totals['price_usd']:,.2f} USD"
    return f"{time}, {hours}, {price} ({chip['price_usd']:g} an hour, list price of {chip['price_date']})"


def _print_too_large(console: Console, signature: Signature) -> None:
    """Print why a signature does not fit, and what was tried."""
    reason = signature["error"] or "evaluation or checkpoint need more"
    lines = [f"{signature['name']} does not fit: {reason}"]
    for buffer in signature["largest_buffers"][:SHOWN]:
        lines.append(f"    {_size(buffer['bytes']):>9}  {buffer['shape']}  {buffer['path']}")
    for layout in signature["layouts"]:
        mesh = _mesh(layout["mesh"])
        lines.append(f"    {mesh}, {layout['trials_per_program']} in a program: {_peak(layout)}")
    for change in signature["changes"]:
        if change["fits"]:
            milliseconds = 1e3 * change["step_seconds_bound"]
            verdict = f"fits with {_peak(change)} and takes {milliseconds:.1f} ms a step"
        else:
            verdict = f"does not fit either ({_peak(change)})"
        lines.append(f"    {change['change']}: {verdict} ({change['cost']})")
    for line in lines:
        console.print(line, markup=False)


# --- words for values


def _mesh(sizes: dict[str, int]) -> str:
    return " ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "one chip"


def _yes_or_no(signature: Signature) -> str:
    return "yes" if signature["fits"] else "NO"


def _milliseconds(signature: Signature) -> str:
    return f"{1e3 * signature['step_seconds_bound']:.2f}"


def _gigabytes(count: float | None) -> str:
    return "?" if count is None else f"{count / 1e9:.2f}"


def _peak(tried: dict[str, Any]) -> str:
    peak = tried["peak_bytes"]
    return "?" if peak is None else _size(peak)


def _size(count: float) -> str:
    """Write bytes in the unit that suits them."""
    for unit, scale in UNITS:
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _time(seconds: float) -> str:
    """Write seconds in the unit that suits them."""
    if seconds >= 3600:
        return f"{seconds / 3600:.3g} h"
    if seconds >= 60:
        return f"{seconds / 60:.3g} min"
    return f"{seconds:.3g} s"
