"""Names to objects: the only place that knows what a configuration may say."""
