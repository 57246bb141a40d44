"""The files in the folder of an evaluation."""
