"""What `ugicm.training.evaluate` found, as estimates with intervals, tables, JSON and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm.runtime.files.output import write_atomically
from ugicm.training.curves import LADDERS, Curve, bd_rate, mean_curve
from ugicm.training.scores import Box, Precision, Sampled, average_precision, resamples, sampled_mean

Record = dict[str, Any]
PAIRS = (("machine", "human"), ("machine", "JPEG"), ("machine", "WebP"), ("human", "JPEG"))
TITLES = {"bpp": "bpp", "psnr": "PSNR dB", "ms_ssim": "MS-SSIM", "top1": "top-1", "agreement": "agreement"}
TITLES |= {"map50": "mAP50", "map": "mAP", "iou": "mask IoU"}
PLOTTED = ("psnr", "ms_ssim", "top1", "agreement", "map50", "iou")


def measures(record: Record, original: Record, truth: list[Any], draws: np.ndarray) -> dict[str, Sampled]:
    """Measure → its value over the images and over the resamples, of one record of a set."""
    found = {name: sampled_mean(record[name], draws) for name in ("bpp", "psnr", "ms_ssim", "iou") if record.get(name)}
    if "classes" in record:
        classes = np.array(record["classes"])
        found["top1"] = sampled_mean(classes == np.array(truth), draws)
        found["agreement"] = sampled_mean(classes == np.array(original["classes"]), draws)
    if "boxes" in record:
        precision: Precision = average_precision(_boxes(truth), _boxes(record["boxes"]), draws)
        found |= {"map50": precision.map50, "map": precision.map}
    return found


def _boxes(rows: list[Any]) -> list[list[Box]]:
    return [[Box(*box) for box in boxes] for boxes in rows]


def summary(records: Record, times: int) -> dict[str, Any]:
    """Estimates of one set: of the originals, of each system at each quality, and of paired differences."""
    draws = resamples(records["count"], times)
    original, truth = records["original"], records["truth"]
    result: dict[str, Any] = {"images": records["count"], "original": {}, "qualities": {}}
    for name, sampled in measures(original, original, truth, draws).items():
        if name not in ("bpp", "psnr", "ms_ssim", "agreement", "iou"):
            result["original"][name] = sampled.estimate()._asdict()
    for quality, systems in records["qualities"].items():
        found = {system: measures(record, original, truth, draws) for system, record in systems.items()}
        row: dict[str, Any] = {
            system: {name: s.estimate()._asdict() for name, s in values.items()} for system, values in found.items()
        }
        for system, record in systems.items():
            if "setting" in record:
                row[system]["setting"] = record["setting"]
        row["differences"] = {
            f"{a} - {b}": {
                name: found[a][name].minus(found[b][name]).estimate()._asdict() for name in found[a] if name in found[b]
            }
            for a, b in PAIRS
            if a in found and b in found
        }
        result["qualities"][str(quality)] = row
    return result


def curves(records: Record) -> dict[str, Curve]:
    """Mean rate-distortion curves of the views, and of JPEG and WebP over their whole range."""

    def curve(points: dict[Any, Record]) -> Curve:
        return mean_curve({s: list(zip(r["bpp"], r["psnr"], r["ms_ssim"], strict=True)) for s, r in points.items()})

    qualities = records["qualities"]
    views = [name for name in next(iter(qualities.values())) if name not in LADDERS]
    found = {name: curve({q: systems[name] for q, systems in qualities.items()}) for name in views}
    return found | {kind: curve(points) for kind, points in records["ladders"].items()}


def report(results: dict[str, Any], times: int, folder: Path, console: Console) -> None:
    """Prints tables; writes `evaluation.json`, and a plot a set."""
    out: dict[str, Any] = {key: results[key] for key in ("codec_id", "conditions")} | {"sets": {}}
    for name, records in results["sets"].items():
        found = summary(records, times)
        if "ladders" in records:
            found["curves"] = curves(records)
            found["bd_rate_percent"] = {
                kind: bd_rate(found["curves"][kind], next(iter(found["curves"].values()))) for kind in LADDERS
            }
        out["sets"][name] = found
        _show(name, found, console)
        _plot(name, found, folder / f"{name}.png")
    write_atomically(folder / "evaluation.json", (json.dumps(out, indent=1) + "\n").encode())
    console.print(f"wrote {folder}/evaluation.json and plots", highlight=False)


def _text(estimate: dict[str, float], signed: bool = False) -> str:
    form = "{:+.3f}" if signed else "{:.3f}"
    return f"{form} [{form}, {form}]".format(estimate["value"], estimate["low"], estimate["high"])


def _show(name: str, found: dict[str, Any], console: Console) -> None:
    rows = list(found["qualities"].values())
    names = [n for n in TITLES if any(n in values for values in rows[0].values())]
    table = Table(
        "quality", "what", *(TITLES[n] for n in names), title=f"{name}: {found['images']} images, 95 % intervals"
    )
    if found["original"]:
        table.add_row("", "original", *(_text(found["original"][n]) if n in found["original"] else "" for n in names))
    for quality, row in found["qualities"].items():
        for system, values in row.items():
            if system != "differences":
                title = f"{system} {values['setting']}" if "setting" in values else system
                table.add_row(quality, title, *(_text(values[n]) if n in values else "" for n in names))
        for pair, values in row["differences"].items():
            table.add_row(quality, pair, *(_text(values[n], True) if n in values else "" for n in names), style="dim")
        table.add_section()
    console.print(table, highlight=False)
    for kind, percent in found.get("bd_rate_percent", {}).items():
        text = "not defined: no PSNR in common" if percent is None else f"{percent:+.1f} %"
        console.print(f"BD-rate (PSNR) against {kind}: {text}", highlight=False)


def _plot(name: str, found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(found["qualities"].values())
    systems = [s for s in rows[0] if s != "differences"]
    names = [n for n in PLOTTED if n in rows[0][systems[0]]]
    if name != "images":
        names = [n for n in names if n != "psnr"]
    figure, axes = plt.subplots(1, len(names), figsize=(5.5 * len(names), 4.3), layout="constrained", squeeze=False)
    for axis, measure in zip(axes[0], names, strict=True):
        for system in systems:
            points = sorted((r[system]["bpp"]["value"], *r[system][measure].values()) for r in rows if system in r)
            bpp, value, low, high = np.array(points).T
            axis.plot(bpp, value, marker="o", markersize=3, label=system, linestyle="--" if system in LADDERS else "-")
            axis.fill_between(bpp, low, high, alpha=0.12)
        if measure in found["original"]:
            axis.axhline(found["original"][measure]["value"], color="grey", linewidth=0.8, label="original")
        axis.set(xlabel="bits per pixel", ylabel=TITLES[measure])
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
