"""Names by which pipelines know the pool."""

from ugicm.runtime.processes.cpus import processors
from ugicm.runtime.processes.pool import Pool
from ugicm.runtime.processes.shared import Shared
from ugicm.runtime.processes.worker import DiedError, Worker

__all__ = ["DiedError", "Pool", "Shared", "Worker", "processors"]
