"""Medians, ratios, tables and JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.contenders import DIRECT, FWPROXY, HAPROXY, NGINX, Contender, vsftpd_version
from benchmarks.measurements import Figure, Measurement, Sample, Settings
from benchmarks.processes import BenchError
from benchmarks.ways import dante_version


@dataclass(slots=True)
class Result:
    """The samples of one measurement by contender, a sample for each round."""

    measurement: Measurement
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # contender: why it has no more samples

    def values(self, contender: Contender, figure: Figure) -> list[float]:
        samples = self.samples.get(contender.name, [])
        return [sample[figure.key] for sample in samples if figure.key in sample]

    def ratios(self, contender: Contender, figure: Figure) -> list[float]:
        """The contender divided by the reference, round by round."""
        if self.measurement.reference is None:
            return []
        reference = self.values(self.measurement.reference, figure)
        pairs = zip(self.values(contender, figure), reference, strict=False)
        return [value / other for value, other in pairs if other]


def environment() -> dict[str, str]:
    """What the figures depend on besides the code."""
    facts = {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"{len(os.sched_getaffinity(0))}{_cpu_model()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    versions = {proxy.name: proxy.version for proxy in (HAPROXY, NGINX, FWPROXY)}
    versions |= {"vsftpd": vsftpd_version, "Dante": dante_version}
    for name, version in versions.items():
        try:
            facts[name] = version()
        except BenchError as error:
            facts[name] = f"missing: {error}"
    return facts


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f" ({line.partition(':')[2].strip()})"
    return ""


def show(
    console: Console, facts: dict[str, str], results: Sequence[Result], settings: Settings
) -> None:
    """The facts, a table for each group of measurements, and who was missing."""
    console.print()
    for name, fact in facts.items():
        console.print(f"{name + ':':9}{escape(fact)}", highlight=False)
    for group, members in groupby(results, lambda result: result.measurement.group):
        console.print()
        console.print(_table(group, list(members), settings))
    missing: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for absence in result.absent.items():
            missing.setdefault(absence, []).append(result.measurement.name)
    for (name, reason), names in missing.items():
        line = f"Without {name}: {reason} ({', '.join(names)})"
        console.print(escape(line), style="yellow", highlight=False)
    console.print(
        "Cells: the median, and the least and the greatest. "
        "Ratios: round by round, then their median.",
        style="dim",
    )


def _table(group: str, results: Sequence[Result], settings: Settings) -> Table:
    """A row for each figure, a column for each contender and for each ratio."""
    contenders = _unique(c for result in results for c in result.measurement.contenders)
    references = _unique(r.measurement.reference for r in results if r.measurement.reference)
    divided = [
        (contender, reference)
        for reference in references
        for contender in contenders
        if contender not in (reference, DIRECT)
    ]
    table = Table(title=group, title_justify="left", header_style="bold")
    table.add_column("", max_width=40)
    for contender in contenders:
        table.add_column(contender.name, justify="right", no_wrap=True)
    for contender, reference in divided:
        table.add_column(f"{contender.name}\n÷ {reference.name}", justify="right", no_wrap=True)
    table.add_column("aim for\nfwproxy", no_wrap=True)
    for result in results:
        table.add_section()
        table.add_row(f"[bold]{escape(result.measurement.title(settings))}[/bold]")
        for figure in result.measurement.figures:
            table.add_row(
                f"  {figure.label}",
                *(
                    _cell(result.values(contender, figure), figure.digits)
                    for contender in contenders
                ),
                *(
                    _ratio(result.ratios(contender, figure))
                    if reference is result.measurement.reference
                    else ""
                    for contender, reference in divided
                ),
                figure.aim,
            )
    return table


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    least, middle, greatest = (
        f"{value:,.{digits}f}" for value in (min(values), median(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle}\n[dim]{least}…{greatest}[/dim]"


def _ratio(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f}" if ratios else "-"


def _unique(contenders: Iterable[Contender]) -> list[Contender]:
    return list(dict.fromkeys(contenders))


def as_json(
    facts: dict[str, str], results: Sequence[Result], settings: Settings
) -> dict[str, object]:
    """Everything in the tables, and the single samples."""
    return {
        "environment": facts,
        "settings": asdict(settings),
        "measurements": [_result_as_json(result, settings) for result in results],
    }


def _result_as_json(result: Result, settings: Settings) -> dict[str, object]:
    measurement = result.measurement
    return {
        "name": measurement.name,
        "group": measurement.group,
        "title": measurement.title(settings),
        "reference": measurement.reference.name if measurement.reference else None,
        "missing": result.absent,
        "figures": [
            {
                "key": figure.key,
                "label": figure.label,
                "aim": figure.aim,
                "contenders": {
                    contender.name: _values_as_json(result, contender, figure)
                    for contender in measurement.contenders
                },
            }
            for figure in measurement.figures
        ],
    }


def _values_as_json(result: Result, contender: Contender, figure: Figure) -> dict[str, object]:
    values, ratios = result.values(contender, figure), result.ratios(contender, figure)
    return {
        "samples": values,
        "median": median(values) if values else None,
        "ratios": ratios,
        "ratio": median(ratios) if ratios else None,
    }
