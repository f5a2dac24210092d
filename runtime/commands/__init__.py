"""The verbs of `ugicm`: a file each."""
