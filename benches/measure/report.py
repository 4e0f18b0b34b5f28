"""Numbers for people and for programs."""

import json
import statistics


def percentile(values, share):
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Row:
    """One line of the table: samples of ours and of the rival's, lower is better."""

    def __init__(self, what, unit, ours, rival=(), aim=None, note=None):
        self.what, self.unit, self.aim, self.note = what, unit, aim, note
        self.ours, self.rival = list(ours), list(rival)

    def ratio(self):
        """How many times more the rival takes."""
        if not self.rival or not self.ours or statistics.median(self.ours) == 0:
            return None
        return statistics.median(self.rival) / statistics.median(self.ours)

    def met(self):
        """Whether the aim is met; None without one."""
        return None if self.aim is None or not self.ours else statistics.median(self.ours) <= self.aim

    def as_json(self):
        """Everything, samples included."""
        median = lambda values: statistics.median(values) if values else None
        return {
            "what": self.what, "unit": self.unit, "aim": self.aim, "met": self.met(), "ratio": self.ratio(),
            "ours": {"median": median(self.ours), "samples": self.ours},
            "rival": {"median": median(self.rival), "samples": self.rival}, "note": self.note,
        }


def figure(value):
    """Three significant digits are more than a shared machine can tell."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values, unit):
    """Median, and the range when there is one."""
    if not values:
        return ""
    text = f"{figure(statistics.median(values))} {unit}"
    return text if len(values) == 1 else f"{text} ({figure(min(values))} to {figure(max(values))})"


def align(lines, markdown=False):
    """Lines of cells, the first of them the head, aligned for a terminal, or as Markdown."""
    if markdown:
        lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def table(rows, markdown=False):
    """The table, aligned for a terminal, or as Markdown."""
    lines = [["what", "Sampan", "rival", "rival / Sampan", "aim", ""]]
    for row in rows:
        ratio = row.ratio()
        aim = "" if row.aim is None else f"at most {row.aim:g} {row.unit}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met()]
        rival = spread(row.rival, row.unit) or (row.note or "")
        lines.append([row.what, spread(row.ours, row.unit), rival, "" if ratio is None else f"{ratio:.1f}x", aim, verdict])
    return align(lines, markdown)


def write_json(path, facts, rows):
    """All of it to a file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"facts": facts, "rows": [row.as_json() for row in rows]}, file, indent=2)
        file.write("\n")
