"""`python -m tests.adapters.bucket_run`: a folder and a bucket by the same call, on a Ray cluster of two nodes.

The bucket is S3's, as moto's server speaks it on this machine: pictures are put there, encoded to another prefix and
decoded back to the disk, by URIs alone. Needs the extra ray and `moto[server]`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.adapters.cluster_run import draw
from tests.adapters.nodes import two_nodes


def main() -> int:
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = ThreadedMotoServer("127.0.0.1", 0)
    served.start()
    host, port = served.get_host_and_port()
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true"}
    options = f"?endpoint_override={host}%3A{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        work = Path(name)
        draw(work / "in", 12)
        (work / "in/0/bad.png").write_bytes(b"no picture")
        bucket, root = fs.FileSystem.from_uri(f"s3://pictures/{options}")
        bucket.create_dir("pictures")
        fs.copy_files(str(work / "in"), "pictures/in", destination_filesystem=bucket)
        encode = [sys.executable, "-m", "ugicm", "encode", str(work / "in"), "-o", str(work / "alone"), "--jobs", "1"]
        subprocess.run(encode, check=False, capture_output=True)
        expected = {str(p.relative_to(work / "alone")): p.read_bytes() for p in (work / "alone").rglob("*.ugic")}
        with two_nodes(work):
            from ugicm.adapters.ray import decode_dataset, encode_dataset

            source, coded = (f"s3://pictures/{folder}{options}" for folder in ("in", "coded"))
            rows = list(encode_dataset(source, coded).iter_rows())
            found = fs.FileSelector("pictures/coded", recursive=True)
            made = {
                info.path.removeprefix("pictures/coded/"): bucket.open_input_file(info.path).readall()
                for info in bucket.get_file_info(found)
                if info.type == fs.FileType.File
            }
            errors = [row["error"] for row in rows if row["error"]]
            print(f"bucket to bucket: {len(rows)} rows, {len(errors)} errors ({'; '.join(errors)})")
            print(f"{len(made)} objects, {'the same' if made == expected else 'OTHER'} bytes as ugicm encode FOLDER")
            again = list(encode_dataset(source, coded).iter_rows())
            print(f"a second run: {len(again)} rows")
            views = list(decode_dataset(coded, (work / "views").as_uri()).iter_rows())
            pictures = sum(1 for _ in (work / "views").rglob("*.png"))
            print(f"bucket to file://: {len(views)} rows, {pictures} pictures")
    served.stop()
    return 0 if made == expected and len(errors) == len(again) == 1 and pictures == len(views) == 12 else 1


if __name__ == "__main__":
    sys.exit(main())
