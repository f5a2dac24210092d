"""Files that somebody broke, by accident or on purpose: each ends in one line, in bounded memory and time."""
