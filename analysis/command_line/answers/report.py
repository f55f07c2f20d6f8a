"""Print what a report says first."""

from rich.console import Console
from rich.table import Table

from analysis.command_line.verdict_line import show_verdict
from analysis.fitting.result import judged_verdict
from analysis.reporting.survey import Survey
from analysis.reporting.words import WORDS, by_budget, headline, not_known, optimum_cells, title_of
from analysis.writing.numbers import counted

COLOURS = {"good": "green", "care": "yellow", "poor": "red"}
SHOWN = ("chinchilla", "isoflop")  # approaches whose optima are printed


def show(survey: Survey, console: Console) -> None:
    """Print the law, the optimum for 1, 10 and 100 times the largest budget, and the verdict."""
    show_verdict(judged_verdict(survey[survey.headline]), console)
    top = headline(survey)
    console.print(
        f"[bold]{top['law']}[/]  ({title_of(survey.headline)}, {counted(len(survey.columns), 'run')})", highlight=False
    )
    console.print(top["title"], highlight=False)
    console.print(optima_table(survey))
    for line in not_known(survey):
        console.print(line, highlight=False)
    colour = COLOURS[survey.verdict]
    console.print(f"[{colour}]{WORDS[survey.verdict]}[/] {'; '.join(survey.reasons)}", highlight=False)
    for name, reason in survey.failures.items():
        console.print(f"[yellow]{title_of(name)} was not fitted[/]: {reason}", highlight=False)


def optima_table(survey: Survey) -> Table:
    """Return the optima beyond the largest budget."""
    headings = ("budget, FLOPs", "law", "parameters N", "tokens D", "loss")
    table = Table(*headings, title="compute-optimal", title_justify="left")
    for row in by_budget(survey):
        if row["law"] not in SHOWN or row["times_largest"] <= 1:
            continue
        cells = optimum_cells(row, survey.headline)
        texts = []
        for cell in cells["cells"]:
            text = cell["value"]
            if cell["span"]:
                text += f" ({cell['span']})"
            texts.append(text)
        params, tokens, _, loss = texts[:4]
        table.add_row(f"{cells['times']}x = {cells['C']}", cells["law"], params, tokens, loss)
    return table
