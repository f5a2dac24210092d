"""The quality whose file meets a target: a rate, a PSNR or a size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ugicm.runtime.errors import QualityError, UsageError

BPP, PSNR, BYTES = "target_bpp", "target_psnr", "max_bytes"
_UNITS = {BPP: "bits a pixel", PSNR: "dB", BYTES: "bytes"}
CLOSE = {BPP: 0.004, PSNR: 0.012, BYTES: 0.01}
"""A miss that no further search is worth, on `Target.scale`."""
ROUNDS = 4
REACH = 4  # steps of quality over which a slope is taken


@dataclass(frozen=True)
class Target:
    """One thing to aim for.

    Attributes:
        kind: `BPP` or `PSNR`, to be come near to, or `BYTES`, not to be exceeded.
        value: bits a pixel, dB or bytes.
    """

    kind: str
    value: float

    @classmethod
    def of(cls, quality: float | None, **asked: float | None) -> Target | None:
        """The target among keyword arguments of `Codec.encode`; None where there is none.

        Raises:
            UsageError: more than one, one beside a quality, or one that is no positive number.
        """
        given = {kind: value for kind, value in asked.items() if value is not None}
        if not given:
            return None
        if len(given) > 1 or quality is not None:
            raise UsageError(f"{', '.join(given)}{' and a quality' * (quality is not None)}: give one of them")
        ((kind, value),) = given.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UsageError(f"{kind} {value!r} is no positive number")
        return cls(kind, float(value))

    def scale(self, value: float) -> float:
        """A measured value on the scale where steps of quality are alike: logarithms of sizes, dB as they are."""
        return value if self.kind == PSNR else math.log(value)

    def missed(self, least: float, most: float) -> QualityError:
        """The error for a picture whose files reach from `least` to `most`."""
        form = ",.0f" if self.kind == BYTES else ".3f"
        return QualityError(
            f"{self.kind.replace('_', ' ')} {self.value:{form}} cannot be met: this picture takes {least:{form}} to "
            f"{most:{form}} {_UNITS[self.kind]}; ask for that much"
        )


Measure = Callable[[int], float]
"""What the file of a step has: bits a pixel, PSNR or bytes."""


def below(measure: Measure, target: Target, steps: int) -> int:
    """The highest of so many steps that does not exceed a target, -1 where none does; `measure` rises with steps."""
    aim = target.scale(target.value)

    def value(step: int) -> float:
        return target.scale(measure(step))

    low, high = 0, steps - 1
    if value(low) > aim:
        return -1
    if value(high) <= aim:
        return high
    turn = 0
    while high - low > 1:
        turn += 1
        share = 0.5 if turn % 3 == 0 else (aim - value(low)) / max(value(high) - value(low), 1e-9)
        guess = min(max(low + round(share * (high - low)), low + 1), high - 1)
        low, high = (guess, high) if value(guess) <= aim else (low, guess)
    return low


def meet(measure: Measure, target: Target, steps: int) -> int:
    """The step that meets a target: the highest within a size, else the nearest.

    Raises:
        QualityError: even the smallest file has too many bits, or the best too low a PSNR.
    """
    step = below(measure, target, steps)
    if step < 0:
        if target.kind == PSNR:
            return 0
        raise target.missed(measure(0), measure(steps - 1))
    if step == steps - 1:
        if target.kind == PSNR and target.value - measure(step) > CLOSE[PSNR]:
            raise target.missed(measure(0), measure(step))
        return step
    if target.kind == BYTES:
        return step
    return min((step, step + 1), key=lambda s: abs(target.scale(measure(s)) - target.scale(target.value)))


def meet_refined(plain: Measure, refined: Measure, target: Target, steps: int) -> int | None:
    """The step whose refined file meets a target, starting from where the plain one does; few are refined.

    Returns:
        None where no refined file was within the size: the plain one of `meet` is.
    """
    try:
        step = meet(plain, target, steps)
    except QualityError:
        # A refined file may be a little smaller, or better, than every plain one.
        step = steps - 1 if target.kind == PSNR else 0
    aim = target.scale(target.value)
    found: dict[int, float] = {}
    while step not in found and len(found) < ROUNDS:
        miss = aim - target.scale(refined(step))
        found[step] = miss
        if abs(miss) <= CLOSE[target.kind] and (target.kind != BYTES or miss >= 0):
            break
        low, high = max(step - REACH, 0), min(step + REACH, steps - 1)
        slope = (target.scale(plain(high)) - target.scale(plain(low))) / max(1, high - low)
        move = miss / max(slope, 1e-6)
        move = math.floor(move) if target.kind == BYTES else round(move)
        step = min(max(step + move, 0), steps - 1)
    if target.kind == BYTES:
        fitting = {s: miss for s, miss in found.items() if miss >= 0}
        return min(fitting, key=lambda s: fitting[s]) if fitting else None
    nearest = min(found, key=lambda s: abs(found[s]))
    out_of_reach = abs(found[nearest]) > 10 * CLOSE[target.kind]
    too_far = nearest == 0 and found[0] < 0 if target.kind == BPP else nearest == steps - 1 and found[nearest] > 0
    if out_of_reach and too_far:
        raise target.missed(refined(0), refined(steps - 1))
    return nearest
