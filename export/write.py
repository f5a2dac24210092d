"""Writes a bundle: whole, or not at all; the same source gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ugicm.runtime import exact_reference
from ugicm.runtime.bundle import codec_id
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.files.output import make_folder
from ugicm.runtime.files.whole_folder import replace_folder
from ugicm.runtime.manifest import FORMAT, MANIFEST, FileEntry, GraphEntry, Manifest
from ugicm.runtime.schedule import Schedule
from ugicm.runtime.tables import Tables

ENCODER = ("g_a", "g_a.effort", "h_a", "h_s", "h_s_mean", "context")
DECODER = ("h_s", "h_s_mean", "context", "g_s_trunk", "g_s", "g_s.view", "condition")


def wanted(part: str) -> tuple[str, ...]:
    """The graphs of a part, "both", "encoder" or "decoder", beside those of stages, which belong to either."""
    return {"encoder": ENCODER, "decoder": DECODER, "both": ENCODER + DECODER}[part]


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A compressed `.npz` with fixed time stamps and order."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asarray(arrays[name], order="C"), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue())
    return out.getvalue()


def golden_vectors(exact: ExactNetwork, z_probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of the exact path and what must come out: samples of the prior at several sizes, and the extremes."""
    rng = np.random.default_rng(20240229)
    reach = z_probabilities.shape[1] // 2
    cumulative = np.cumsum(z_probabilities / z_probabilities.sum(1, keepdims=True), axis=1)
    arrays: dict[str, np.ndarray] = {}
    inputs = []
    for height, width in ((1, 1), (2, 3), (3, 3)):
        uniform = rng.random((len(cumulative), height, width))
        z = np.stack([np.searchsorted(c, u) for c, u in zip(cumulative, uniform, strict=True)]) - reach
        inputs.append(z[None])
    limit = exact.input_limit
    shape = (1, len(cumulative), 3, 2)
    inputs.append(rng.integers(-limit, limit + 1, shape))
    inputs.append(rng.choice([-limit, limit], shape))
    for i, z in enumerate(inputs):
        z = np.clip(z, -limit, limit).astype(np.int16)
        scale_index, means = exact_reference.run(exact, z.astype(np.int32))
        arrays[f"z{i}"] = z
        arrays[f"scale_index{i}"] = scale_index
        if means is not None:
            arrays[f"mean{i}"] = (means * 2.0**-exact.mean_fraction_bits).astype(np.float32)
    return arrays


def write_bundle(
    folder: Path,
    graphs: Mapping[str, tuple[bytes, tuple[str, ...], tuple[str, ...]]],
    tables: Mapping[str, np.ndarray],
    exact: ExactNetwork | None,
    golden: Mapping[str, np.ndarray],
    manifest: Mapping[str, object],
    part: str = "both",
) -> Manifest:
    """Writes the files of a part and the manifest that names them, replacing a bundle that is there.

    Args:
        folder: the bundle's folder; one that holds anything but a bundle is not touched.
        graphs: name → (ONNX bytes, input names, output names).
        tables, exact, golden: the arrays; no exact network for a codec with a schedule, neither it nor golden vectors
            for one without a hyperprior.
        manifest: the remaining fields of the manifest.
        part: "both", "encoder" or "decoder".

    Raises:
        OutputError: `folder` is a file or holds something that is no bundle, or the disk refuses.
    """
    schedule = manifest.get("schedule")
    stages = schedule.graphs if isinstance(schedule, Schedule) else ()
    names = wanted(part) + stages
    contents = {f"{name}.onnx": data for name, (data, _, _) in graphs.items() if name in names}
    contents["tables.npz"] = npz_bytes(tables)
    if exact is not None:
        contents["exact.npz"] = npz_bytes(exact.to_arrays())
    if golden:
        contents["golden.npz"] = npz_bytes(golden)
    y, z = (Tables.from_arrays(*(tables[f"{t}_{c}"] for c in ("frequencies", "lengths", "offsets"))) for t in "yz")
    keys = ("stride", "latent_stride", "latent_channels", "hyper_channels")
    geometry = tuple(int(str(manifest[k])) for k in keys)
    full = Manifest(
        format=FORMAT,
        codec_id=codec_id(y, z, exact, str(manifest["context_digest"]), geometry, schedule),  # type: ignore[arg-type]
        part=part,
        graphs={
            name: GraphEntry(f"{name}.onnx", inputs, outputs)
            for name, (_, inputs, outputs) in graphs.items()
            if name in names
        },
        proof=[{"layer": k, "largest_accumulator": n} for k, n in (exact.bounds() if exact else {}).items()],
        files={n: FileEntry(hashlib.sha256(d).hexdigest(), len(d)) for n, d in sorted(contents.items())},
        **manifest,  # type: ignore[arg-type]
    )
    contents[MANIFEST] = full.to_json().encode()
    make_folder(folder.parent, parents=True)
    replace_folder(folder, contents)
    return full
