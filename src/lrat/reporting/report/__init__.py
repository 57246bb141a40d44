"""The report: one HTML page of what runs have stored, which opens from disk without a network."""
