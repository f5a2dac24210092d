"""A Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HERE = "127.0.0.1"
_MEMORY = 100 << 20


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Any, Any]]:
    """(the cluster, its second node), of one CPU each; this process is connected.

    Args:
        folder: for Ray's files; a short path, since sockets lie in it.
    """
    os.environ.update(RAY_TMPDIR=str(folder), RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    import ray
    from ray._private import services
    from ray.cluster_utils import Cluster

    # Ray takes 127.0.0.1 for another name of the machine's own address, at which not every machine can be reached.
    services.resolve_ip_for_localhost = lambda host: host
    services.get_node_ip_address = ray.util.get_node_ip_address = lambda *_, **__: _HERE
    node = {"num_cpus": 1, "object_store_memory": _MEMORY, "node_ip_address": _HERE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        ray.init(cluster.address, _node_ip_address=_HERE, log_to_driver=False)
        second = cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()
