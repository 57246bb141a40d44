"""What the report shows, read from run folders."""
