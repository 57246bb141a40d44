"""Names to objects: the only package that knows the settings of a configuration."""
