"""What a .ugic file holds, symbol by symbol: of any codec, whether its rows come from integers or from stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime import flow
from ugicm.runtime.graphs import stages
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.guard import Rounding
from ugicm.runtime.schedule import Stage
from ugicm.runtime.staged import Latents
from ugicm.runtime.staged_coder import ShiftModel, StagedDecoder
from ugicm.runtime.symbols import padded_size, z_first, z_rows
from ugicm.runtime.tables import TOTAL

if TYPE_CHECKING:
    from ugicm.runtime.bitstream import Bitstream
    from ugicm.runtime.bundle import Bundle
    from ugicm.runtime.codec import Codec


@dataclass(frozen=True)
class Held:
    """The symbols of a file.

    Attributes:
        z, z_rows: int32 hyper-latents (1, Nz, h, w), and the table row of each.
        y, y_rows: int32 symbols (1, M, H, W), and the table row of each.
        guards: bits of the shifts of guarded rounding, by the tables that coded them; 0 without.
    """

    z: np.ndarray
    z_rows: np.ndarray
    y: np.ndarray
    y_rows: np.ndarray
    guards: float


def held(codec: Codec, data: bytes, name: str = "<bytes>") -> Held:
    """What the bytes of a .ugic file of this codec hold.

    Raises:
        What `Codec.decode` raises for damaged data.
    """
    found: Held = codec.answer(_reading(codec.bundle, data, name))
    return found


def _reading(bundle: Bundle, data: bytes, name: str) -> flow.Flow[Held]:
    stream = flow.parse(bundle, data, name)
    run = flow.asking(padded_size(stream.height, stream.width, bundle.manifest.stride), stream.quality)
    z = yield from flow.hyper_latents(bundle, stream, name)
    rows_of_z = z_rows(z.shape, z_first(bundle.z_tables, z.shape[1], stream.quality))
    if stream.guard is not None:
        y, rows, guards = yield from _staged(bundle, z, stream, name, run)
        return Held(z, rows_of_z, y, rows, guards)
    rows, _ = yield run(Networks.scales_and_means, z)
    y = yield flow.Read("y", stream.y, rows, name)
    return Held(z, rows_of_z, y, rows, 0.0)


def _staged(
    bundle: Bundle, z: np.ndarray, stream: Bitstream, name: str, run: object
) -> flow.Flow[tuple[np.ndarray, np.ndarray, float]]:
    """(symbols, rows, bits of the shifts)."""
    guard, latents, model = stream.guard, Latents(bundle, z, stream.quality), ShiftModel()
    assert guard is not None
    rounding = Rounding(guard, bundle.y_tables.lengths == 0)
    decoder = StagedDecoder(stream.y[0], bundle.y_tables, name)
    rows = np.zeros(latents.symbols.shape, np.uint16)
    places = np.arange(rows.size).reshape(rows.shape)
    guards = 0.0

    def coded(stage: Stage, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
        nonlocal guards
        shifts = decoder.shifts(-(-index.size // guard.block))
        guards -= float(np.log2(model.tables().frequencies[shifts] / TOTAL).sum())
        model.count(shifts)
        found = rounding.rows(index, shifts, name)
        rows.reshape(-1)[latents.of(stage, places)] = found
        return decoder.symbols(found)

    yield from latents.decode(coded, stages.asking(run))  # type: ignore[arg-type]
    return latents.symbols, rows, guards
