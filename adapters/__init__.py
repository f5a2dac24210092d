"""Other people's programs: each adapter knows one, the rest of the project knows none."""
