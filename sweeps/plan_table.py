"""A plan for a reader: one row a signature, what does not fit and what would help, and the bill."""

from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = 5  # buffers of a program that does not fit


def show(console: Console, value: dict[str, Any], name: str) -> None:
    """Print the plan (the JSON of sweeps.plan)."""
    cpu = value["target"] == "cpu"
    console.print(_measured(value, name) if value["topology"] is None else _compiled(value, name))
    if any(row["collective_bytes"] for row in value["signatures"]):
        console.print(_sent(value))
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
    chips = value["totals"]["chips"]
    out = Table(title=f"{name} on {value['target']}: {chips} chips ({value['topology']}), of {value['chip']['date']}")
    heads = ("signature", "runs", "parameters", "mesh", "in a program", "fits", "peak GB: step, eval, save")
    heads += ("FLOPs/step", "compiled/ledger", "sent MB", "ms/step", "bound by", "MFU", "compile s", "time")
    for head in heads:
        out.add_column(head, justify="left" if head in ("signature", "mesh", "bound by") else "right")
    for s in value["signatures"]:
        mesh = " ".join(f"{axis} {size}" for axis, size in s["mesh"].items() if size > 1) or "one chip"
        peaks = (s["peak_bytes"], s["peak_evaluation_bytes"], s["peak_checkpoint_bytes"])
        cells = [s["name"], s["runs"], f"{s['params_total']:.3g}", mesh, s["trials_per_program"]]
        cells += ["yes" if s["fits"] else "NO", ", ".join("?" if p is None else f"{p / 1e9:.2f}" for p in peaks)]
        cells += [f"{s['flops_per_step']:.3g}"]
        if s["fits"]:
            ratio = s["flops_compiled"] * chips / (s["flops_per_step"] * s["trials_per_program"])
            sent = f"{sum(s['collective_bytes'].values()) / 1e6:.4g}"
            cells += [f"{ratio:.2f}", sent, f"{1e3 * s['step_seconds_bound']:.2f}", s["bound_by"]]
            cells += [f"{s['mfu_bound']:.0%}", f"{s['compile_seconds']:.0f}", _time(s["seconds"])]
        else:
            cells += ["", "", "", "", "", f"{s['compile_seconds']:.0f}", ""]
        out.add_row(*map(str, cells))
    return out


def _sent(value: dict[str, Any]) -> Table:
    """What a chip sends in a step, by kind of collective."""
    rows = [row for row in value["signatures"] if row["collective_bytes"]]
    kinds = sorted({kind for row in rows for kind in row["collective_bytes"]})
    out = Table("signature", title="MB that a chip sends in a step")
    for kind in kinds:
        out.add_column(kind, justify="right")
    for row in rows:
        sent = (row["collective_bytes"].get(kind, 0) / 1e6 for kind in kinds)
        out.add_row(row["name"], *(f"{count:.4g}" for count in sent))
    return out


def _tight(console: Console, row: dict[str, Any]) -> None:
    """Why a signature does not fit, and what was tried."""
    console.print(f"{row['name']} does not fit: {row['error'] or 'evaluation or checkpoint need more'}", markup=False)
    for buffer in row["largest_buffers"][:SHOWN]:
        console.print(f"    {_size(buffer['bytes']):>9}  {buffer['shape']}  {buffer['path']}", markup=False)
    for layout in row["layouts"]:
        mesh = " ".join(f"{axis} {size}" for axis, size in layout["mesh"].items() if size > 1) or "one chip"
        peak = "?" if layout["peak_bytes"] is None else _size(layout["peak_bytes"])
        console.print(f"    {mesh}, {layout['trials_per_program']} in a program: {peak}", markup=False)
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
