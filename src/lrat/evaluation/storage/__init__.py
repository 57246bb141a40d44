"""What an evaluation keeps in its folder."""
