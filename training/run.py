"""A run: model, averaged weights, optimiser and step, and the folder they live in."""

from __future__ import annotations

import hashlib
import math
import pickle
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from ugicm.models.conditioning import Preference
from ugicm.models.fast import Block, Conditioned
from ugicm.models.growth import grown
from ugicm.models.ugicm import UGICM, UGICMConfig
from ugicm.training.balance import make_balance
from ugicm.training.checkpoint import rebuild, save, weights_of
from ugicm.training.config import Config, ConfigError, Optimisation
from ugicm.training.data import Crops
from ugicm.training.objectives import Batch, Terms, bits_per_pixel, distortion, draw_betas, draw_qualities, reconstruct
from ugicm.training.supervision import SemanticDistance, open_encoder

CODING = ("g_a.", "h_a.", "h_s.", "context.", "bottleneck.", "latent_model.", "log_gain")
Losses = dict[str, float]


def learning_rate(step: int, settings: Optimisation) -> float:
    """Linear warm-up, constant, linear fall to zero over the last `decay` steps."""
    rising = min(1.0, (step + 1) / max(settings.warmup, 1))
    falling = min(1.0, (settings.steps - step) / max(settings.decay, 1))
    return settings.lr * max(0.0, min(rising, falling))


def average_into(average: UGICM, model: UGICM, keep: float) -> None:
    """Exponential moving average of the weights."""
    with torch.no_grad():
        for a, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if a.is_floating_point():
                a.lerp_(m, 1 - keep)
            else:
                a.copy_(m)


def load_checkpoint(path: Path) -> UGICM:
    """The model of a checkpoint file. Raises ConfigError."""
    try:
        return rebuild(torch.load(path, weights_only=True, map_location="cpu"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint") from None
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: not a checkpoint of this project ({reason})") from None


def choose_trained(model: UGICM, patterns: list[str]) -> None:
    """Lets the parameters learn whose names match a pattern, and no others.

    Raises:
        ConfigError: a pattern that matches none.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ConfigError(f"train: no parameter is named {pattern!r}; there are {', '.join(parts)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch(name, pattern) for pattern in patterns))


def forget_conditioning(model: UGICM) -> None:
    """Draws the conditioning anew, as before training: every view is the human one."""
    g_s = model.g_s
    model.preference = Preference(g_s.widths, model.config.widths.preference_hidden, g_s.starts)
    for module in g_s.modules():
        if isinstance(module, Conditioned):
            torch.nn.init.zeros_(module.up.weight)


def _grown(model: UGICM, widths: dict[str, int]) -> UGICM:
    try:
        return grown(model, **widths)
    except ValueError as error:
        raise ConfigError(f"grow: {error}") from None


def _rest(model: UGICM) -> None:
    """Puts the blocks that do not learn to rest: their ReLUs revive nothing."""
    for module in model.modules():
        if isinstance(module, Block) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


class Run:
    """One training run. Opening the folder of an earlier one continues it.

    Everything random in a step follows from the seed and the step's number, so that a run that was killed and continued
    takes the same steps as one that was not.

    Args:
        config: the run's configuration.
        folder: made if it is not there.

    Raises:
        ConfigError: something that the configuration names is missing or wrong.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(config.optimisation.seed)
        network = config.network
        if config.init:
            self.model = load_checkpoint(config.init)
            if config.grow:
                self.model = _grown(self.model, config.grow)
        else:
            self.model = UGICM(UGICMConfig.named(network.backbone, network.qualities, **network.widths))
        if config.fresh_conditioning:
            forget_conditioning(self.model)
        choose_trained(self.model, config.train)
        self.average = UGICM(self.model.config)
        self.average.load_state_dict(self.model.state_dict())
        encoder = open_encoder(config.supervision)
        distance = SemanticDistance(encoder, config.supervision).to(self.device) if encoder else None
        self.supervised_by = encoder.label if encoder else None
        qualities = self.model.config.qualities
        if config.objective.quality_shares and len(config.objective.quality_shares) != qualities:
            raise ConfigError(f"objective.quality_shares: {qualities} numbers are needed, one a quality")
        self.terms = Terms(config.objective, config.instances, qualities, distance)
        self.balance = make_balance(config.balance, self.terms.weights()).to(self.device)
        for m in (self.model, self.average):
            m.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.coding_learns = any(
            p.requires_grad and name.startswith(CODING) for name, p in self.model.named_parameters()
        )
        betas = config.objective.betas
        if not betas.machine and not betas.between and not self.model.human_views_learn():
            raise ConfigError("objective.betas: human views do not use the conditioning, and nothing else trains")
        if self.coding_learns and not config.objective.rate:
            raise ConfigError("objective.rate: false needs an encoder that does not train; see train")
        self.optimiser = self._optimiser()
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self.recent: list[Losses] = []
        state = folder / "state.pt"
        if state.exists():
            self._restore(state)

    def _optimiser(self) -> torch.optim.Optimizer:
        settings = self.config.optimisation
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                factor = next((f for pattern, f in settings.lr_factors.items() if fnmatch(name, pattern)), 1.0)
                groups.setdefault(factor, []).append(parameter)
        balance = list(self.balance.parameters())
        if balance:
            groups.setdefault(self.config.balance.lr_factor, []).extend(balance)
        return torch.optim.Adam([{"params": p, "factor": f} for f, p in groups.items()], lr=settings.lr, fused=True)

    def _restore(self, path: Path) -> None:
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
            if state["identity"] != self._identity():
                raise ConfigError(f"{path}: of a run with another model or parameters to train; give another folder")
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.balance.load_state_dict(state["balance"])
            self.step, self.seconds, self.best = int(state["step"]), float(state["seconds"]), float(state["best"])
            self.recent = [dict(zip(state["columns"], row, strict=True)) for row in state["recent"]]
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path}: not the state of a run; remove it to start again") from None

    def _identity(self) -> str:
        trained = [(n, tuple(p.shape), p.requires_grad) for n, p in self.model.named_parameters()]
        return hashlib.sha256(repr((trained, self.config.balance.method)).encode()).hexdigest()[:16]

    def save(self) -> None:
        """Writes the state to continue from, and the averaged weights as a checkpoint."""
        columns = sorted({name for row in self.recent for name in row})
        state = {
            "identity": self._identity(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "balance": self.balance.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "columns": columns,
            "recent": [[row.get(name, math.nan) for name in columns] for row in self.recent],
        }
        save(self.folder / "state.pt", state)
        self.save_checkpoint("checkpoint.pt")

    def save_checkpoint(self, name: str) -> None:
        """Writes the averaged weights, labelled with what supervised them."""
        save(self.folder / name, {**weights_of(self.average), "supervision": self.supervised_by or "none"})

    def batch(self, crops: Crops) -> Batch:
        """The batch of this step."""
        settings, objective = self.config.optimisation, self.config.objective
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        x, instances = crops.batch(self.config.data.batch, self.step, settings.seed)
        quality = draw_qualities(len(x), objective.quality_shares, self.model.config.qualities, generator)
        beta = draw_betas(len(x), objective.betas, generator)
        torch.manual_seed(settings.seed * 1_000_003 + self.step)  # for the noise that stands for rounding
        x, quality, beta = (v.to(self.device) for v in (x, quality, beta))
        return Batch(x, quality, beta, instances)

    def advance(self, batch: Batch) -> Losses:
        """One step of the optimiser.

        Returns:
            "loss", "bpp", "mse", each term, and each term's weight as "weight_…".

        Raises:
            FloatingPointError: a term that is no number; the batch is kept in `bad-batch.pt`.
        """
        settings = self.config.optimisation
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, settings) * group["factor"]
        self.model.train()
        _rest(self.model)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.step < settings.bf16_until):
            output = self.model(*batch[:3]) if self.config.objective.rate else reconstruct(self.model, batch)
            terms = self.terms(output, batch)
        bad = [name for name, term in terms.items() if not torch.isfinite(term)]
        if bad:
            kept = {"x": batch.x.cpu(), "quality": batch.quality.cpu(), "beta": batch.beta.cpu(), "step": self.step}
            save(self.folder / "bad-batch.pt", kept)
            value = float(terms[bad[0]].detach())
            raise FloatingPointError(f"{bad[0]} is {value} at step {self.step}; its batch is in bad-batch.pt")
        self.optimiser.zero_grad()
        weights = self.balance.backward(terms, output.x_hat)
        torch.nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], settings.clip)
        self.optimiser.step()
        self.step += 1
        average_into(self.average, self.model, min(settings.ema, self.step / (self.step + 10)))
        values = {name: float(term.detach()) for name, term in terms.items()}
        with torch.no_grad():
            losses = {
                "loss": sum(weights[name] * value for name, value in values.items()),
                "bpp": float(bits_per_pixel(output, batch.x).mean()),
                "mse": float(distortion(output.x_hat, batch.x).mean()),
            }
        return {**losses, **values, **{f"weight_{name}": weight for name, weight in weights.items()}}
