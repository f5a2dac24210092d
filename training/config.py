"""The settings of a training run: the sections of its YAML file, checked before anything is loaded.

A configuration is one of the names in `training/configs/` or a path; `--set section.key=value` replaces single values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

CONFIGS = Path(__file__).with_name("configs")
CROP_MULTIPLE = 64


class ConfigError(ValueError):
    """A configuration, or what it names, is missing or wrong: one line that says where and what to do."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Data(Section):
    """Training images.

    Attributes:
        folder: PNG, JPEG or WebP files, directly in it.
        exclude: patterns of file names to leave out.
        weights: pattern → sampling weight of files; 1 where none matches.
        crop: side in pixels, a multiple of 64.
        batch: crops a step.
        reduced: share of the crops that are taken larger and reduced.
        largest_reduction: by how much at most.
        transpose: whether rows and columns are exchanged in half of the crops; not where an encoder of things looks.
    """

    folder: Path | None = None
    exclude: list[str] = []
    weights: dict[str, float] = {}
    crop: PositiveInt = 192
    batch: PositiveInt = 8
    reduced: float = Field(default=0.5, ge=0, le=1)
    largest_reduction: float = Field(default=2.0, ge=1)
    transpose: bool = True

    @field_validator("crop")
    @classmethod
    def _multiple(cls, crop: int) -> int:
        if crop % CROP_MULTIPLE:
            raise ValueError(f"must be a multiple of {CROP_MULTIPLE}")
        return crop


class Network(Section):
    """A new network, where no checkpoint is given to start from."""

    backbone: Literal["fast", "bmshj2018"] = "fast"
    qualities: int = Field(default=8, ge=1, le=255)
    widths: dict[str, PositiveInt] = {}


class Optimisation(Section):
    """Adam, its rate and its length.

    Attributes:
        steps: of the whole run.
        lr: peak learning rate.
        lr_factors: parameter name pattern → factor on the rate; the first that matches.
        warmup: steps of linear rise.
        decay: last steps, in which the rate falls linearly to 0.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are what is evaluated and saved.
        bf16_until: autocast to bfloat16 before this step, on CPU as on GPU.
        seed: everything random follows from it and the step.
    """

    steps: PositiveInt = 100_000
    lr: float = Field(default=1e-3, gt=0)
    lr_factors: dict[str, float] = {}
    warmup: int = Field(default=500, ge=0)
    decay: int = Field(default=20_000, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    bf16_until: int = Field(default=0, ge=0)
    seed: int = Field(default=1, ge=0)


class Betas(Section):
    """Shares of a batch: human views (beta 0), machine views (beta 1), and betas drawn evenly from between."""

    human: float = Field(default=1.0, ge=0)
    machine: float = Field(default=0.0, ge=0)
    between: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Betas:
        if not self.human + self.machine + self.between:
            raise ValueError("shares must not all be 0")
        return self


class Objective(Section):
    """The terms to minimise; see `ugicm.training.objectives`.

    Attributes:
        rate: whether bits count; not where the encoder is frozen.
        betas: which views a batch holds.
        lambdas: lowest and highest weight of the distortion; the qualities are log-spaced between.
        quality_shares: how often each quality is drawn; all alike by default.
        human_weight: factor on the distortion of human views.
        keep_distortion: share of the distortion that stays at beta 1.
        global_weight, instance_weight: of the semantic distance of whole images, of instances.
    """

    rate: bool = True
    betas: Betas = Betas()
    lambdas: tuple[float, float] = (0.0015, 0.09)
    quality_shares: list[float] = []
    human_weight: float = Field(default=1.0, gt=0)
    keep_distortion: float = Field(default=0.0, ge=0)
    global_weight: float = Field(default=0.0, ge=0)
    instance_weight: float = Field(default=0.0, ge=0)

    @property
    def semantic(self) -> bool:
        """Whether a frozen encoder is needed."""
        return bool(self.global_weight or self.instance_weight)


class Supervision(Section):
    """The frozen encoder that compares a picture with its original.

    Attributes:
        kind: "clip" (open_clip) or "imagenet" (MobileNetV2, a stand-in).
        weights: its file.
        model: for "clip" the name of an open_clip model, or a JSON file that describes one.
        size: pictures are resized to this side before it looks; 0 leaves them as they are. CLIP's is its own.
        depths: how many intermediate layers are compared.
        depth_weights: their weights, shallow to deep; all alike by default.
        embedding_weight: weight of 1 - cosine of the final embeddings.
        logits_weight: weight of the divergence of the class probabilities, where the encoder has classes.
    """

    kind: Literal["none", "clip", "imagenet"] = "none"
    weights: Path | None = None
    model: str = "ViT-B-32"
    size: int = Field(default=0, ge=0)
    depths: int = Field(default=5, ge=0)
    depth_weights: list[float] = []
    embedding_weight: float = Field(default=1.0, ge=0)
    logits_weight: float = Field(default=0.0, ge=0)


class Instances(Section):
    """Where instances come from and how they are looked at.

    Attributes:
        source: "none", "coco" (boxes and masks of an annotation file) or "proposals" (without supervision).
        annotations: the COCO file.
        view: "masked" blanks what is not the instance, "cropped" keeps its box.
        size: side to which each is resized.
        most: instances an image, the largest (of proposals the most salient) first.
        least_side: boxes with a shorter side in pixels are left out.
    """

    source: Literal["none", "coco", "proposals"] = "none"
    annotations: Path | None = None
    view: Literal["masked", "cropped"] = "masked"
    size: PositiveInt = 96
    most: PositiveInt = 4
    least_side: PositiveInt = 24


class Balance(Section):
    """How the terms are weighted against each other; see `ugicm.training.balance`."""

    method: Literal["fixed", "uncertainty", "gradient-norm"] = "fixed"
    lr_factor: float = Field(default=1.0, gt=0)


class Validation(Section):
    """Evaluation while training, always of the same images, qualities and betas.

    Attributes:
        folder: lossless images; none, no evaluation.
        images: how many, the first by name.
        every: steps between evaluations.
        qualities: 1-based.
        betas: of the views.
    """

    folder: Path | None = None
    images: PositiveInt = 12
    every: PositiveInt = 5000
    qualities: list[PositiveInt] = [2, 4, 6]
    betas: list[float] = [0.0, 1.0]


class Config(Section):
    """A whole run.

    Attributes:
        train: patterns of the parameters that learn, e.g. `g_s.blocks.*`.
        init: checkpoint whose weights a new run starts from; none, a new network.
        fresh_conditioning: whether a new run forgets the conditioning of `init`. A perceptron whose ReLUs an earlier
            run has driven below zero gets no gradient, and learns nothing any more.
        grow: widths of `g_a` that a new run enlarges the model of `init` to, without a change of what it computes
            (`ugicm.models.growth`): `analysis_quarter`, `analysis_fine`, `analysis_coarse`.
        log_every: steps a line.
        save_minutes: minutes between saved states.
    """

    train: list[str] = ["*"]
    init: Path | None = None
    fresh_conditioning: bool = False
    grow: dict[str, PositiveInt] = {}
    data: Data = Data()
    network: Network = Network()
    optimisation: Optimisation = Optimisation()
    objective: Objective = Objective()
    supervision: Supervision = Supervision()
    instances: Instances = Instances()
    balance: Balance = Balance()
    validation: Validation = Validation()
    log_every: PositiveInt = 100
    save_minutes: float = Field(default=3.0, ge=0)

    @model_validator(mode="after")
    def _together(self) -> Config:
        if self.grow and self.init is None:
            raise ValueError("grow: needs init, the checkpoint of the codec whose analysis grows")
        if self.objective.semantic and self.supervision.kind == "none":
            raise ValueError("objective: a semantic distance needs supervision.kind clip or imagenet")
        if self.supervision.kind != "none" and self.supervision.weights is None:
            raise ValueError("supervision.weights: the encoder's file is missing")
        if self.objective.instance_weight and self.instances.source == "none":
            raise ValueError("objective.instance_weight: needs instances.source coco or proposals")
        if self.instances.source == "coco" and self.instances.annotations is None:
            raise ValueError("instances.annotations: a COCO file is missing")
        return self


def names() -> list[str]:
    """The configurations that come along."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def read(name: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a configuration by name or path, with `section.key=value` changes (values in YAML).

    Raises:
        ConfigError: no such configuration, or not YAML.
    """
    path = CONFIGS / f"{name}.yaml" if name in names() else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such configuration; give a file or one of {', '.join(names())}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: a configuration is a mapping of sections; see docs/training.md")
    for change in changes:
        _put(values, change)
    return values


def check(values: dict[str, Any], name: str) -> Config:
    """The configuration that plain values describe; `name` is what errors call them. Raises ConfigError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {f'{where}: ' if where else ''}{reason}; see docs/training.md") from None


def _put(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"--set {change}: give section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {change}: the value is not YAML") from None
    # A scientific number without a point or sign is text to YAML 1.1.
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {change}: {section} is not a section")
    values[last] = value
