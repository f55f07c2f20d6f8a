"""Print every kind of synthetic text: what it is in one line, and its options."""

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.data.sources import synthetic
from models.option import describe


def table() -> Table:
    """Return the kinds and their options, as `experiments.prepare --kinds` prints them."""
    out = Table(box=box.SIMPLE, show_edge=False)
    for column in ("synthetic:", "default", "allowed", "help"):
        out.add_column(column)
    for kind in synthetic.kinds():
        module = synthetic.load(kind, synthetic.PREFIX + kind)
        summary = (module.__doc__ or "").partition("\n")[0]
        out.add_section()
        out.add_row(Text(kind, style="bold"), "", "", Text(summary, style="bold"))
        for row in describe(module.Config):
            out.add_row(f"  {row.name}", row.default, row.allowed, row.help)
    return out
