"""Reading and writing of files: written whole or not at all, and read with checks."""
