"""Many files: pipelines in one process, folders over several."""
