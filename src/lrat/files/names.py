"""What the files and folders of a run are called."""

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
CONTENTS = "contents.json"
"""Digests of the images and of the model's file that the run was begun with."""
ACCELERATION = "acceleration.json"
COMMAND = "command.txt"
"""The command that began the folder, as it was typed."""
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MODEL, WEIGHTS = "model.json", "model.safetensors"
RECORDED = "weights"
"""The weights of images, by epoch."""
FIGURES = "figures"

IDENTITY, SUMMARY = "identity.json", "summary.json"
FINGERPRINT = "fingerprint.json"

EVALUATIONS = "evaluations"
EXTENT, NOTES, PANEL = "extent.json", "notes.json", "masking.json"
PARTS, IMAGES, GALLERY = "outcomes", "images", "gallery"

CURVES, CURVE, CURVE_IMAGES = "curves", "curve.json", "images"

ANALYSES, OVERLAP, RANKINGS = "analysis", "overlap.json", "rankings.json"
VULNERABILITY, EMBEDDING = "vulnerability", "embedding"
"""Tables of an analysis."""
