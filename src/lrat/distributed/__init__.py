"""Processes that work on one thing together, and how they are stopped."""
