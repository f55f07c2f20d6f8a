"""Print how often intervals hold the truth, on the terminal and as Markdown."""

from collections.abc import Callable, Sequence
import pathlib

from rich.console import Console
from rich.table import Table

from analysis.questions.coverage import NOMINAL, PROFILES, QUANTITIES, Share, Tally, outside
from analysis.questions.planted import DESIGNS
from analysis.writing.numbers import number
from analysis.writing.output_file import write
from experiments.cli import InputError

BEGIN = "<!-- coverage: begin -->"
END = "<!-- coverage: end -->"
NONE = "none"  # where no interval was printed
HEADINGS = {
    "exponent_N": "exp. of N*",
    "exponent_D": "exp. of D*",
    "loss on its line at 10x": "loss on line",
}


def show(tally: Tally, console: Console) -> None:
    """Print for people: shares, widths, and what does not hold the truth as often as it says."""
    for title, quantities in (("intervals", QUANTITIES), ("profiles", PROFILES)):
        console.print(_table(f"90% {title}: how often they held the truth, of how many", tally, quantities, covered))
        console.print(_table("median width (A, B and N*: high over low)", tally, quantities, width))
    for name in _in_order(tally):
        wrong = outside(tally, name)
        if wrong:
            bounds = f"{NOMINAL[0]:.0%} to {NOMINAL[1]:.0%}"
            console.print(
                f"[yellow]outside of {bounds}, and not by chance[/]: {name}: {', '.join(wrong)}", highlight=False
            )


def _table(title: str, tally: Tally, quantities: Sequence[str], cell: Callable[[Share], str]) -> Table:
    """Return a table of one cell for each design and quantity."""
    table = Table("design", "grids", title=title, title_justify="left")
    for quantity in quantities:
        table.add_column(_heading(quantity), justify="right")
    for name in _in_order(tally):
        table.add_row(*_row(name, tally, quantities, cell))
    return table


def _heading(quantity: str) -> str:
    """Return the short name of a quantity."""
    return HEADINGS.get(quantity, quantity.removeprefix("profile of "))


def _in_order(tally: Tally) -> list[str]:
    """Return the designs that were tallied, in the order in which they are listed."""
    return [name for name in DESIGNS if name in tally.outcomes]


def _row(name: str, tally: Tally, quantities: Sequence[str], cell: Callable[[Share], str]) -> list[str]:
    """Return the cells of one design."""
    shares = tally.shares(name)
    cells = [cell(shares[quantity]) for quantity in quantities]
    return [name, str(len(tally.outcomes[name])), *cells]


def covered(share: Share) -> str:
    """Write a share that held the truth, with the share of grids that it is of where not all had an interval."""
    if share.covered is None:
        return NONE
    text = f"{share.covered:.0%}"
    if share.printed < share.grids:
        text += f" of {100 * share.printed // share.grids}%"
    return text


def width(share: Share) -> str:
    """Write a median width."""
    if share.width is None:
        return NONE
    return number(share.width, 2)


def markdown(tally: Tally) -> str:
    """Return the shares of intervals as a table in Markdown; bold where they are outside of NOMINAL, and not by chance."""
    headings = [_heading(quantity) for quantity in QUANTITIES]
    lines = [_line(["design", "grids", *headings])]
    lines.append(_line(["---"] * (2 + len(headings))))
    for name in _in_order(tally):
        lines.append(_line(_row(name, tally, QUANTITIES, _bold_where_wrong)))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bold_where_wrong(share: Share) -> str:
    text = covered(share)
    return text if share.is_as_it_says else f"**{text}**"


def show_designs(console: Console) -> None:
    """Print every design with what it is."""
    table = Table("design", "what is planted")
    for name, design in DESIGNS.items():
        table.add_row(name, design.about)
    console.print(table)


def check_marks(path: str) -> None:
    """Raise InputError where a file has not the two marks between which the table is put."""
    _around(path)


def write_into(path: str, tally: Tally) -> None:
    """Replace what stands between the two marks of a Markdown file by the table."""
    before, after = _around(path)
    write(path, f"{before}{BEGIN}\n{markdown(tally)}\n{END}{after}", "--into")


def _around(path: str) -> tuple[str, str]:
    """Return what stands before and after the marks of a file. Raises InputError where it has not both."""
    try:
        text = pathlib.Path(path).read_text()
    except OSError as error:
        raise InputError(f"--into: {path} cannot be read ({error.strerror})") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"--into: {path} has no lines {BEGIN} and {END}; expected both, the table goes between them")
    return before, after
