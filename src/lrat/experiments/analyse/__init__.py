"""``lrat analyse``: how a run's model sees its images."""
