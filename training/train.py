"""`ugicm train [DATA] --config STAGE -o RUN`: trains a codec in stages.

`--config` names a stage that comes along (stage0: rate and distortion; stage1: all weights, with the semantic distance
of machine views; stage2: the synthesis and its conditioning, with instances) or a YAML file; `--set section.key=value`
replaces single values. The state is saved every few minutes; the same command continues a run, to the same step and on
the same loss curve, however it ended.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ugicm.training.config import Config, ConfigError, check, names, read
from ugicm.training.data import Crops, image_files
from ugicm.training.run import Losses, Run
from ugicm.training.validation import Validator, criterion

TERMS = ("rate", "distortion", "global", "instance")
COLUMNS = ("loss", "bpp", "mse", *TERMS, *(f"weight_{term}" for term in TERMS))
VALIDATION_COLUMNS = ("step", "quality", "beta", "bpp", "psnr", "semantic", "objective")


def parser(program: str, description: str | None, config: str) -> argparse.ArgumentParser:
    """The arguments that describe a run."""
    p = argparse.ArgumentParser(prog=program, description=description)
    p.add_argument("data", type=Path, nargs="?", help="folder of training images (data.folder)")
    p.add_argument("--config", default=config, help=f"{', '.join(names())} or a YAML file (default: {config})")
    p.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace values")
    p.add_argument("-o", "--output", type=Path, required=True, help="folder of the run; continued if it exists")
    p.add_argument("--init", help="checkpoint whose weights a new run starts from (init)")
    p.add_argument("--teacher", help="weights of the frozen encoder (supervision.weights)")
    p.add_argument("--validation", help="folder of validation images (validation.folder)")
    p.add_argument("--exclude", nargs="*", metavar="PATTERN", help="file names to leave out (data.exclude)")
    p.add_argument("--weight", nargs="*", metavar="PATTERN=W", help="sampling weight of files (data.weights)")
    p.add_argument("--steps", help="of the whole run (optimisation.steps)")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    return p


def configured(args: argparse.Namespace) -> Config:
    """The configuration with what the command line replaces. Raises ConfigError."""
    values = read(args.config, args.set)

    def put(section: str, key: str, value: Any) -> None:
        if value is not None:
            values.setdefault(section, {})[key] = value

    put("data", "folder", args.data)
    put("data", "exclude", args.exclude)
    put("supervision", "weights", args.teacher)
    put("validation", "folder", args.validation)
    put("optimisation", "steps", args.steps)
    if args.init is not None:
        values["init"] = args.init
    if args.weight is not None:
        pairs = (item.rpartition("=") for item in args.weight)
        put("data", "weights", {pattern: weight for pattern, _, weight in pairs})
    config = check(values, args.config)
    if config.data.folder is None:
        raise ConfigError("data.folder: name the folder of training images")
    return config


class Log:
    """A CSV file of a run. One that is continued first loses the rows after the saved step."""

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        self.path, self.columns = path, columns
        rows: list[list[str]] = []
        if step and path.exists():
            with path.open(newline="") as handle:
                rows = [row for row in csv.reader(handle) if len(row) == len(columns) and row[0].isdigit()]
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([columns, *(row for row in rows if int(row[0]) <= step)])

    def add(self, values: Sequence[object]) -> None:
        with self.path.open("a", newline="") as handle:
            csv.writer(handle).writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])


def mean(rows: list[Losses]) -> Losses:
    """Column means of losses; a column over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    finite = {name: [row[name] for row in rows if row.get(name, float("nan")) == row.get(name)] for name in names}
    return {name: sum(values) / len(values) for name, values in finite.items() if values}


def describe(losses: Losses) -> str:
    parts = [f"loss {losses['loss']:.4f}"]
    if losses["bpp"]:
        parts.append(f"{losses['bpp']:.4f} bpp")
    parts.append(f"MSE {losses['mse']:.2f}")
    parts += [f"{name} {losses[name]:.4f}" for name in ("global", "instance") if name in losses]
    return "  ".join(parts)


def train(run: Run, crops: Crops, validator: Validator | None, say: Callable[[str, float], None]) -> None:
    """Steps until the run's last one: logs, evaluates, saves.

    Args:
        run: what trains.
        crops: its images.
        validator: None, no evaluation.
        say: told a line and the minutes left, at every logged step.
    """
    config = run.config
    log = Log(run.folder / "log.csv", ("step", "seconds", *COLUMNS), run.step)
    evaluations = Log(run.folder / "validation.csv", VALIDATION_COLUMNS, run.step)
    before, started, saved = run.seconds, time.monotonic(), time.monotonic()
    first = run.step
    while run.step < config.optimisation.steps:
        run.recent.append(run.advance(run.batch(crops)))
        run.seconds = before + time.monotonic() - started
        left = (time.monotonic() - started) / (run.step - first) * (config.optimisation.steps - run.step) / 60
        if run.step % config.log_every == 0:
            losses = mean(run.recent)
            run.recent.clear()
            log.add([run.step, f"{run.seconds:.0f}", *(losses.get(name, "") for name in COLUMNS)])
            say(f"step {run.step}  {describe(losses)}", left)
        last = run.step == config.optimisation.steps
        if validator is not None and (last or run.step % config.validation.every == 0):
            evaluate(run, validator, evaluations, say, left)
        if last or time.monotonic() - saved > config.save_minutes * 60:
            run.save()
            saved = time.monotonic()


def evaluate(run: Run, validator: Validator, log: Log, say: Callable[[str, float], None], left: float) -> None:
    """Evaluates the averaged weights; keeps them as `best.pt` where no evaluation before was better."""
    rows = validator(run.average, run.device)
    for row in rows:
        log.add([run.step, *row])
        say(str(row), left)
    if criterion(rows) < run.best:
        run.best = criterion(rows)
        run.save_checkpoint("best.pt")
        run.save()


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser("ugicm train", __doc__, "stage0").parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        config = configured(args)
        assert config.data.folder is not None
        crops = Crops(image_files(config.data.folder, config.data.exclude), config.data, config.instances)
        args.output.mkdir(parents=True, exist_ok=True)
        run = Run(config, args.output)
        qualities, instances = run.model.config.qualities, bool(config.objective.instance_weight)
        validator = Validator(config.validation, run.terms, qualities, instances) if config.validation.folder else None
        if run.step:
            print(f"continuing {args.output} at step {run.step}", flush=True)
        values = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (args.output / "config.yaml").write_text(values, encoding="utf-8")
        with_progress(run, crops, validator)
    except (ConfigError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    checkpoint = args.output / "checkpoint.pt"
    if run.supervised_by:
        print(f"the machine view is {run.supervised_by}")
    print(f"wrote {checkpoint}; next: python -m ugicm.export.to_onnx {shlex.quote(str(checkpoint))}")
    return 0


def with_progress(run: Run, crops: Crops, validator: Validator | None) -> None:
    """A progress line on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        train(run, crops, validator, lambda line, left: print(f"{line}  {left:.0f} min left", flush=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=run.config.optimisation.steps, completed=run.step)

        def say(line: str, left: float) -> None:
            if line.startswith("validation"):
                progress.console.print(line)
            else:
                progress.update(task, description=line)
            progress.update(task, completed=run.step)

        train(run, crops, validator, say)


if __name__ == "__main__":
    sys.exit(main())
