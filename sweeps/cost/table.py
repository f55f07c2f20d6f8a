"""A plan for a reader: one row a signature, what does not fit and what would help, and the bill."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

SHOWN = 5  # buffers of a program that does not fit
LEAST_WIDTH = 120  # a narrower terminal breaks lines rather than lose columns


def show(console: Console, value: dict[str, Any], name: str) -> None:
    """Print the plan (the JSON of sweeps.plan)."""
    console.width, cpu = max(console.width, LEAST_WIDTH), value["target"] == "cpu"
    for table in (_measured,) if value["topology"] is None else (_compiled, _steps):
        console.print(table(value, name))
    for row in value["signatures"]:
        if not row["fits"] and not cpu:
            _tight(console, row)
        if row["opaque_kernels"]:
            console.print(f"{row['name']}: FLOPs of {', '.join(row['opaque_kernels'])} are not counted", markup=False)
    totals = value["totals"]
    counts = f"{totals['runs']} runs, {totals['tokens']:,} tokens, {totals['flops']:.3g} FLOPs: "
    if cpu:
        hours = f"{totals['chip_hours']:.3f} core hours"
        console.print(f"{counts}about {totals['seconds']:.0f} s on {totals['workers']} cores ({hours})")
    else:
        console.print(counts + _bill(value), markup=False)
    storage = f"checkpoints up to {_size(totals['checkpoint_storage_bytes'])}"
    path = f"longest line of runs {_time(totals['critical_path_seconds'])}"
    if len(totals["critical_path"]) > 1:
        path += " (" + " -> ".join(totals["critical_path"]) + ")"
    console.print(f"{storage}; {path}", markup=False)
    if value["topology"]:
        found = f"{totals['compiled']} programs compiled, {totals['remembered']} known from before"
        console.print(f"{found}; step times are bounds: a real step takes longer")


def _bill(value: dict[str, Any]) -> str:
    totals, chip = value["totals"], value["chip"]
    least = "at least " if value["topology"] else ""
    text = f"{least}{_time(totals['seconds'])} on {totals['chips']} chips, {least}{totals['chip_hours']:.3g} chip hours"
    if totals["price_usd"] is None:
        return text + "; no list price is known"
    return text + (
        f", {least}{totals['price_usd']:,.2f} USD ({chip['price_usd']:g} an hour, list price of {chip['price_date']})"
    )


def _measured(value: dict[str, Any], name: str) -> Table:
    out = Table(title=f"{name} on {value['target']}")
    heads = ("signature", "runs", "parameters", "tokens", "FLOPs/step", "FLOPs", "peak MB", "fits")
    for head in (*heads, "ms/step", "compile s", "seconds" if value["chip"] else "core s"):
        out.add_column(head, justify="left" if head == "signature" else "right")
    for s in value["signatures"]:
        peak = "?" if s["peak_bytes"] is None else f"{s['peak_bytes'] / 1e6:.1f}"
        cells = (s["name"], s["runs"], f"{s['params_total']:,}", f"{s['tokens']:,}", f"{s['flops_per_step']:.3g}")
        cells += (f"{s['flops']:.3g}", peak, "yes" if s["fits"] else "NO", f"{1e3 * s['step_seconds_bound']:.2f}")
        out.add_row(*map(str, cells), f"{s['compile_seconds']:.1f}", f"{s['seconds']:.0f}")
    return out


def _compiled(value: dict[str, Any], name: str) -> Table:
    """What runs where, whether it fits, and what it takes."""
    chips = value["totals"]["chips"]
    out = Table(title=f"{name} on {value['target']}: {chips} chips ({value['topology']}), of {value['chip']['date']}")
    heads = ("signature", "runs", "params", "mesh", "at once", "fits", "step GB", "eval", "save")
    _columns(out, *heads, "ms/step", "bound by", "MFU", "time")
    for s in value["signatures"]:
        peaks = (s["peak_bytes"], s["peak_evaluation_bytes"], s["peak_checkpoint_bytes"])
        cells = [s["name"], s["runs"], f"{s['params_total']:.3g}", _mesh(s["mesh"]), s["trials_per_program"]]
        cells += ["yes" if s["fits"] else "NO", *("?" if p is None else f"{p / 1e9:.2f}" for p in peaks)]
        if s["fits"]:
            cells += [f"{1e3 * s['step_seconds_bound']:.2f}", s["bound_by"], f"{s['mfu_bound']:.0%}"]
            cells += [_time(s["seconds"])]
        out.add_row(*map(str, cells))
    return out


def _steps(value: dict[str, Any], _: str) -> Table:
    """What a step multiplies, and what a chip sends in it by kind of collective."""
    chips = value["totals"]["chips"]
    kinds = sorted({kind for row in value["signatures"] for kind in row["collective_bytes"]})
    out = Table(title="a step of each run: FLOPs by the ledger, compiled ones over them; MB that a chip sends in all")
    _columns(out, "signature", "FLOPs", "compiled", *(kind.replace("-", "-\n", 1) for kind in kinds), "compile s")
    for s in value["signatures"]:
        ratio = (s["flops_compiled"] or 0) * chips / (s["flops_per_step"] * s["trials_per_program"])
        sent = (f"{s['collective_bytes'].get(kind, 0) / 1e6:.4g}" if s["fits"] else "" for kind in kinds)
        shown = f"{ratio:.2f}" if s["fits"] else ""
        out.add_row(s["name"], f"{s['flops_per_step']:.3g}", shown, *sent, f"{s['compile_seconds']:.0f}")
    return out


def _columns(table: Table, *heads: str) -> None:
    """Numbers keep to one line; a narrow terminal folds names."""
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    for head in heads:
        names = head in ("signature", "mesh", "bound by")
        table.add_column(head, justify="left" if names else "right", no_wrap=not names, min_width=12 if names else None)


def _mesh(sizes: dict[str, int]) -> str:
    return " ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "one chip"


def _tight(console: Console, row: dict[str, Any]) -> None:
    """Why a signature does not fit, and what was tried."""
    console.print(f"{row['name']} does not fit: {row['error'] or 'evaluation or checkpoint need more'}", markup=False)
    for buffer in row["largest_buffers"][:SHOWN]:
        console.print(f"    {_size(buffer['bytes']):>9}  {buffer['shape']}  {buffer['path']}", markup=False)
    for layout in row["layouts"]:
        peak = "?" if layout["peak_bytes"] is None else _size(layout["peak_bytes"])
        console.print(f"    {_mesh(layout['mesh'])}, {layout['trials_per_program']} in a program: {peak}", markup=False)
    for change in row["changes"]:
        peak = "?" if change["peak_bytes"] is None else _size(change["peak_bytes"])
        if change["fits"]:
            word = f"fits with {peak} and takes {1e3 * change['step_seconds_bound']:.1f} ms a step"
        else:
            word = f"does not fit either ({peak})"
        console.print(f"    {change['change']}: {word} ({change['cost']})", markup=False)


def _size(count: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.3g} h"
        if seconds >= 3600
        else f"{seconds / 60:.3g} min"
        if seconds >= 60
        else f"{seconds:.3g} s"
    )
