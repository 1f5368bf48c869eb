"""What a run leaves behind: one .json with everything, a .csv of points, a plot."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import subprocess
import sys
import time

from cluster import ROOT, memory_bytes
from sweep import TARGETS, Point


def _git_commit() -> str:
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return platform.processor()
    names = {key.strip(): value.strip() for key, value in fields.items()}
    return names.get("model name", platform.machine())


def _huge_pages_mb() -> int:
    """Memory set aside for huge pages, which shared buffers use if it is enough for them."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["HugePages_Total"]) * int(fields["Hugepagesize"].split()[0]) // 1024
    except (OSError, KeyError):
        return 0


def machine() -> dict:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_bytes() / 2**30, 1),
        "kernel": platform.release(),
        "load_average": round(os.getloadavg()[0], 2),
        "architecture": platform.machine(),
        "huge_pages_mb": _huge_pages_mb(),
    }


def provenance() -> dict:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "commit": _git_commit(),
        "machine": machine(),
        "python": platform.python_version(),
    }


def bytes_text(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GB"


def point_text(point: Point) -> str:
    scan = "  ".join(f"{name} {value:.4g}" for name, value in point.scan.items())
    faults = "  ".join(f"({count} queries {what})" for what, count in (
        ("short of rows", point.quality.short), ("with a row twice", point.quality.repeated),
        ("out of order", point.quality.disordered)) if count)
    return (f"   {point.variant or '-':<28} {point.knob:>8} {point.clients:>7}"
            f" {point.quality.recall:>9.4f} {point.timing.queries_per_second:>9.1f}"
            f" {point.timing.percentile_ms(50):>8.3f} {point.timing.percentile_ms(95):>8.3f}"
            f" {point.timing.percentile_ms(99):>8.3f}  {scan}  {faults}").rstrip()


def point_heading(knob: str, k: int) -> str:
    return (f"   {'variant':<28} {knob.split('.')[-1]:>8} {'clients':>7} {f'recall@{k}':>9}"
            f" {'queries/s':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}")


def best_at(points: list[Point], system: str, target: float) -> Point | None:
    """One client at a recall not below the target: the least knob value of each
    variant that gets there, and of those the fastest."""
    good = [p for p in points if p.system == system and p.clients == 1
            and p.knob != "default" and p.quality.recall >= target]
    least: dict[str, Point] = {}
    for point in good:
        if point.variant not in least or float(point.knob) < float(least[point.variant].knob):
            least[point.variant] = point
    return max(least.values(), key=lambda p: p.timing.queries_per_second, default=None)


def targets(results: dict, points: list[Point]) -> dict:
    """Per system and target, the point of best_at."""
    found = {}
    for system in results["systems"]:
        best = {str(target): best_at(points, system, target) for target in TARGETS}
        found[system] = {target: point and point.columns() for target, point in best.items()}
    return found


def summary(results: dict, points: list[Point]) -> str:
    """Systems side by side."""
    lines = [f"{'system':<44} {'build s':>8} {'index':>9}" +
             "".join(f" {f'q/s at {target}':>11} {'knob':>6}" for target in TARGETS)]
    for name, system in results["systems"].items():
        build = system["build"]
        line = (f"{name[:44]:<44} {build['seconds']:>8.1f}"
                f" {bytes_text(build['index_bytes']):>9}")
        for target in TARGETS:
            point = best_at(points, name, target)
            reached = f"{point.timing.queries_per_second:.0f}" if point else "not reached"
            line += f" {reached:>11} {point.knob if point else '':>6}"
        lines.append(line)
    return "\n".join(lines + ratios(results, points))


def ratios(results: dict, points: list[Point]) -> list[str]:
    """The first ivfpq index against each other system: one client, at equal recall."""
    ours = next((name for name in results["systems"] if name.startswith("ivfpq")), None)
    lines = []
    for name, other in results["systems"].items():
        if ours is None or name.startswith("ivfpq"):
            continue
        build, other_build = results["systems"][ours]["build"], other["build"]
        parts = []
        for target in TARGETS:
            mine, theirs = best_at(points, ours, target), best_at(points, name, target)
            if mine and theirs:
                ratio = mine.timing.queries_per_second / theirs.timing.queries_per_second
                parts.append(f"{ratio:.2f} x q/s at {target:.2f}")
        parts.append(f"{other_build['seconds'] / build['seconds']:.1f} x faster built")
        parts.append(f"1/{other_build['index_bytes'] / build['index_bytes']:.1f} of the size")
        mine, theirs = (results["systems"][system].get("inserts_per_second")
                        for system in (ours, name))
        if mine and theirs:
            parts.append(f"{mine / theirs:.1f} x inserts/s")
        lines.append(f"ivfpq against {name}: " + ", ".join(parts))
    return lines


def write_csv(path: str, points: list[Point]) -> None:
    rows = [point.columns() for point in points]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def front(points: list[Point]) -> list[Point]:
    """The points that no other one beats in both recall and speed, by recall."""
    chosen: list[Point] = []
    for point in sorted(points, key=lambda p: -p.quality.recall):
        if not chosen or point.timing.queries_per_second > chosen[-1].timing.queries_per_second:
            chosen.append(point)
    return chosen[::-1]


def plot(path: str, title: str, k: int, points: list[Point]) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for system in dict.fromkeys(p.system for p in points):
        own = [p for p in points if p.system == system and p.clients == 1]
        line = front([p for p in own if p.knob != "default"])
        drawn, = axes.plot([p.quality.recall for p in line],
                           [p.timing.queries_per_second for p in line], "o-", ms=4, label=system)
        for p in own:
            if p.knob == "default":
                axes.plot([p.quality.recall], [p.timing.queries_per_second], "*", ms=13,
                          color=drawn.get_color(), label=f"{system}, default settings")
    axes.set_yscale("log")
    axes.set_xlabel(f"recall@{k}")
    axes.set_ylabel("queries per second, one client")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(folder: str, name: str, results: dict, points: list[Point]) -> str:
    os.makedirs(folder, exist_ok=True)
    stem = os.path.join(folder, name)
    with open(stem + ".json", "w", encoding="utf-8") as file:
        json.dump({**results, "targets": targets(results, points),
                   "points": [p.columns() for p in points]}, file, indent=1, default=str)
        file.write("\n")
    write_csv(stem + ".csv", points)
    try:
        plot(stem + ".png", results["title"], results["k"], points)
    except ImportError:
        print("   no plot: the Python module matplotlib is not installed")
    return stem
