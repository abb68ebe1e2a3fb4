"""How the memory of a dual-view contrast grows with the number of points: streamed, and as N x N matrices.

Writes docs/results/contrast_memory.csv and the picture docs/pictures/contrast-memory.svg. Each figure is the extra
peak of forward and backward in a fresh process. A dense form that would not fit into a share of the free memory is
not run; from its largest measured N on, the picture goes on with N^2, dashed.
"""

from measuring import ROOT, machine, versions  # isort: skip  (sets the number of threads first)

import argparse
import csv
import sys
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path

from contrast import CROSS_ENTROPY, OFFICIAL_DUAL, extra_peak_mib
from scantling.figures.colours import class_colour, hexadecimal
from scantling.figures.curves import Line, line_chart
from scantling.figures.svg import standalone

RESULTS = ROOT / "docs" / "results" / "contrast_memory.csv"
PICTURE = ROOT / "docs" / "pictures" / "contrast-memory.svg"
SIZES = (1000, 2000, 4000, 8000, 16_000, 32_000, 40_000)
MATRICES = {OFFICIAL_DUAL: 12.8, CROSS_ENTROPY: 5.0}
"""Upper estimate of the peak in float32 matrices of N x N, to tell what fits."""
SHARE_OF_FREE = 0.4
COLOURS = {"ours": 7, OFFICIAL_DUAL: 6, CROSS_ENTROPY: 1}


@dataclass(frozen=True, kw_only=True)
class Point:
    """The extra peak of one contestant at one N.

    Attributes:
        measured: or computed from the largest measured N, by N^2.
    """

    contestant: str
    n: int
    extra_peak_mib: float
    measured: bool
    machine: str
    versions: str
    date: str


def curve(contestant: str) -> list[Point]:
    points: list[Point] = []
    for n in SIZES:
        measured = contestant == "ours" or MATRICES[contestant] * 4 * n**2 <= SHARE_OF_FREE * free_bytes()
        if measured:
            peak = extra_peak_mib("dual", contestant, n)
        else:
            last = max((point for point in points if point.measured), key=lambda point: point.n)
            peak = last.extra_peak_mib * (n / last.n) ** 2
        print(f"{contestant}, N = {n}: {peak:.1f} MiB{'' if measured else ' (computed)'}", flush=True)
        points.append(
            Point(
                contestant=contestant,
                n=n,
                extra_peak_mib=peak,
                measured=measured,
                machine=machine(),
                versions=versions(),
                date=date.today().isoformat(),
            )
        )
    return points


def free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def write(points: list[Point]) -> None:
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) | {"extra_peak_mib": f"{point.extra_peak_mib:.5g}"} for point in points)


def read() -> list[Point]:
    with RESULTS.open(newline="", encoding="utf-8") as stream:
        return [
            Point(
                contestant=row["contestant"],
                n=int(row["n"]),
                extra_peak_mib=float(row["extra_peak_mib"]),
                measured=row["measured"] == "True",
                machine=row["machine"],
                versions=row["versions"],
                date=row["date"],
            )
            for row in csv.DictReader(stream)
        ]


def picture(points: list[Point]) -> str:
    lines = []
    for contestant, colour in COLOURS.items():
        own = [point for point in points if point.contestant == contestant]
        shown = [point for point in own if point.measured]
        beyond = [shown[-1], *(point for point in own if not point.measured)]
        name = "ours, streamed" if contestant == "ours" else contestant
        lines.append(_line(name, shown, colour, measured=True))
        if len(beyond) > 1:
            said = any(line.dashed for line in lines)
            lines.append(_line("" if said else "not run: by N²", beyond, colour, measured=False))
    drawing = line_chart(
        lines,
        x_label="points a view, N",
        y_label="extra peak memory, MiB",
        title="Dual-view contrast, 128 channels, forward and backward",
        width=680,
        height=360,
        logarithmic=True,
        logarithmic_x=True,
    )
    return standalone(drawing)


def _line(name: str, points: list[Point], colour: int, *, measured: bool) -> Line:
    return Line(
        name=name,
        x=[point.n for point in points],
        y=[point.extra_peak_mib for point in points],
        colour=hexadecimal(class_colour(colour)),
        dashed=not measured,
        markers=measured,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="measure nothing, only draw what was measured before")
    options = parser.parse_args()
    if not options.draw:
        write([point for contestant in COLOURS for point in curve(contestant)])
    PICTURE.write_text(picture(read()), encoding="utf-8")
    print(f"drawn: {PICTURE.relative_to(ROOT)}, from {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
