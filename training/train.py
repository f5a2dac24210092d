"""`python -m training.train DATA -o RUN`: trains a codec for rate and distortion, or its machine view.

With `--stage machine` only the conditioning learns: the bits and the human view stay exactly what they were, and
views of beta above 0 move towards what a frozen encoder (`--teacher`) sees in the original.

The learning rate warms up, stays, and in the last `--decay` steps falls linearly to nothing, so that a run can be
prolonged from any point before the fall. The state is saved every few minutes; the same command continues it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.conditioning import HUMAN, MACHINE
from models.ugicm import STRIDE, UGICM, Output, UGICMConfig
from training.checkpoint import rebuild, save, weights_of
from training.data import Crops, image_files, read_rgb
from training.objectives import (
    bits_per_pixel,
    distortion,
    lambdas,
    preference_objective,
    psnr,
    rate_distortion,
)
from training.supervision import ImagenetTeacher, semantic_distance


def learning_rate(step: int, peak: float, warmup: int, steps: int, decay: int) -> float:
    """Linear warm-up, constant, linear fall to zero over the last `decay` steps."""
    rising = min(1.0, (step + 1) / max(warmup, 1))
    falling = min(1.0, (steps - step) / max(decay, 1))
    return peak * max(0.0, min(rising, falling))


def average_into(average: UGICM, model: UGICM, keep: float) -> None:
    """Exponential moving average of the weights."""
    with torch.no_grad():
        for a, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if a.is_floating_point():
                a.lerp_(m, 1 - keep)
            else:
                a.copy_(m)


@torch.no_grad()
def evaluate(model: UGICM, images: list[Tensor], qualities: list[int]) -> list[tuple[int, float, float]]:
    """(quality, mean bpp, mean PSNR in dB) of each quality (1-based) over whole images, estimated rate."""
    model.eval()
    rows = []
    for quality in qualities:
        index = torch.tensor([quality - 1])
        results = []
        for x in images:
            out = model(x, index, torch.tensor([HUMAN]))
            results.append((float(bits_per_pixel(out, x)), float(psnr(out.x_hat, x))))
        means = torch.tensor(results).mean(0)
        rows.append((quality, float(means[0]), float(means[1])))
    return rows


def validation_images(folder: Path, count: int) -> list[Tensor]:
    """Up to `count` images of a folder, cropped to multiples of the codec's stride."""
    images = []
    for path in image_files(folder)[:count]:
        x = torch.from_numpy(read_rgb(path).copy()).permute(2, 0, 1)[None].float() / 255
        height, width = (n // STRIDE * STRIDE for n in x.shape[2:])
        images.append(x[:, :, :height, :width])
    return images


def parse(arguments: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    p.add_argument("data", type=Path, help="folder of training images")
    p.add_argument("-o", "--output", type=Path, required=True, help="folder of the run; continued if it exists")
    p.add_argument("--validation", type=Path, help="folder of validation images")
    p.add_argument("--exclude", nargs="*", default=[], metavar="PATTERN", help="file names to leave out")
    p.add_argument("--weight", nargs="*", default=[], metavar="PATTERN=W", help="sampling weight of files")
    p.add_argument("--backbone", default="fast", choices=["fast", "bmshj2018"])
    p.add_argument("--qualities", type=int, default=8, help="qualities in the one checkpoint (default: 8)")
    p.add_argument("--steps", type=int, default=100_000, help="steps of the whole run (default: 100000)")
    p.add_argument("--decay", type=int, default=20_000, help="last steps, in which the rate falls to 0")
    p.add_argument("--warmup", type=int, default=500)
    p.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of Adam (default: 1e-3)")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--crop", type=int, default=192, help="side of a crop, a multiple of 64 (default: 192)")
    p.add_argument("--bf16-until", type=int, default=0, metavar="STEP", help="bfloat16 autocast before this step")
    p.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights (default: 0.999)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    p.add_argument("--stage", choices=["rate-distortion", "machine"], default="rate-distortion")
    p.add_argument("--teacher", type=Path, help="weights of the frozen encoder of --stage machine (.npz)")
    p.add_argument("--semantic-weight", type=float, default=3.0, help="of the semantic distance (default: 3)")
    p.add_argument("--keep-distortion", type=float, default=0.3, help="share of the distortion at beta 1")
    p.add_argument("--init", type=Path, help="checkpoint whose weights a new run starts from")
    p.add_argument("--save-minutes", type=float, default=3.0)
    p.add_argument("--evaluate-every", type=int, default=5000, metavar="STEPS")
    args = p.parse_args(arguments)
    if args.crop % STRIDE:
        p.error(f"--crop must be a multiple of {STRIDE}")
    if args.stage == "machine" and not (args.teacher and args.init):
        p.error("--stage machine needs --teacher and --init")
    return args


class Run:
    """One training run: model, averaged weights, optimiser, step, and the folder they live in."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.folder: Path = args.output
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        if args.init:
            self.model = rebuild(torch.load(args.init, weights_only=True))
        else:
            self.model = UGICM(UGICMConfig.named(args.backbone, args.qualities))
        self.average = UGICM(self.model.config)
        self.average.load_state_dict(self.model.state_dict())
        self.teacher = ImagenetTeacher(args.teacher) if args.stage == "machine" else None
        if self.teacher is not None:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith("preference."))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        for m in (self.model, self.average):
            m.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.teacher is not None:
            self.teacher.to(self.device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=args.lr, fused=True)
        self.weights = lambdas(self.model.config.qualities).to(self.device)
        self.step = 0
        self.seconds = 0.0
        state = self.folder / "state.pt"
        if state.exists():
            self._restore(torch.load(state, weights_only=True, map_location=self.device))

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        torch.set_rng_state(state["rng"].cpu())
        print(f"continuing {self.folder} at step {self.step}", flush=True)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
        }
        save(self.folder / "state.pt", state)
        save(self.folder / "checkpoint.pt", weights_of(self.average))

    def _betas(self, count: int) -> Tensor:
        """Human views for rate and distortion; for the machine stage half machine views, half in between."""
        if self.teacher is None:
            return torch.full((count,), HUMAN)
        return torch.where(torch.arange(count) % 2 == 0, torch.rand(count), torch.full((count,), MACHINE))

    def _loss(self, output: Output, x: Tensor, weight: Tensor, beta: Tensor) -> Tensor:
        if self.teacher is None:
            return rate_distortion(output, x, weight)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.step < self.args.bf16_until):
            semantic = semantic_distance(self.teacher, output.x_hat.clamp(0, 1).float(), x)
        args = self.args
        return preference_objective(
            output, x, weight, beta, semantic.float(), args.semantic_weight, args.keep_distortion
        )

    def advance(self, x: Tensor) -> tuple[float, float, float]:
        """One step of the optimiser; (loss, bpp, MSE) of the batch."""
        args = self.args
        x = x.to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, args.lr, args.warmup, args.steps, args.decay)
        quality = torch.randint(0, self.model.config.qualities, (len(x),)).to(self.device)
        beta = self._betas(len(x)).to(self.device)
        self.model.train()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.step < args.bf16_until):
            output = self.model(x, quality, beta)
        loss = self._loss(output, x, self.weights[quality], beta)
        if not torch.isfinite(loss):
            save(self.folder / "bad-batch.pt", {"x": x.cpu(), "quality": quality.cpu(), "step": self.step})
            raise FloatingPointError(
                f"loss is {float(loss.detach())} at step {self.step}; its batch is in bad-batch.pt"
            )
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        average_into(self.average, self.model, min(args.ema, self.step / (self.step + 10)))
        with torch.no_grad():
            bpp, mse = bits_per_pixel(output, x).mean(), distortion(output.x_hat, x).mean()
        return float(loss.detach()), float(bpp), float(mse)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        if args.teacher and not args.teacher.is_file():
            raise FileNotFoundError(f"{args.teacher}: no such file; --teacher takes the weights of an encoder")
        files = image_files(args.data, args.exclude)
        validation = validation_images(args.validation, 12) if args.validation else []
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    weights = {pattern: float(w) for pattern, _, w in (item.rpartition("=") for item in args.weight)}
    crops = Crops(files, args.crop, weights)
    run = Run(args)
    with (run.folder / "log.csv").open("a", newline="") as log:
        train(run, crops, validation, csv.writer(log), log)
    print(f"wrote {run.folder / 'checkpoint.pt'}; next: python -m export.to_onnx {run.folder / 'checkpoint.pt'}")
    return 0


def train(run: Run, crops: Crops, validation: list[Tensor], rows: Any, log: Any) -> None:
    """Steps until the run's last one, logging every 100 and saving every few minutes."""
    args = run.args
    recent: list[tuple[float, float, float]] = []
    started, saved = time.monotonic() - run.seconds, time.monotonic()
    while run.step < args.steps:
        recent.append(run.advance(crops.batch(args.batch, run.step, args.seed)))
        run.seconds = time.monotonic() - started
        if run.step % 100 == 0:
            loss, bpp, mse = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            recent.clear()
            left = run.seconds / run.step * (args.steps - run.step) / 60
            rows.writerow([run.step, f"{run.seconds:.0f}", f"{loss:.5f}", f"{bpp:.5f}", f"{mse:.4f}"])
            log.flush()
            line = f"step {run.step}  loss {loss:.4f}  {bpp:.4f} bpp  MSE {mse:.2f}  {left:.0f} min left"
            print(line, flush=True)
        if validation and run.step % args.evaluate_every == 0:
            for quality, bpp, decibel in evaluate(run.average, validation, [2, 4, 6]):
                print(f"validation: quality {quality}  {bpp:.4f} bpp  {decibel:.2f} dB", flush=True)
        if time.monotonic() - saved > args.save_minutes * 60:
            run.save()
            saved = time.monotonic()
    run.save()


if __name__ == "__main__":
    sys.exit(main())
