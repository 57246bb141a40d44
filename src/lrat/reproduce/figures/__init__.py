"""The paper's figures from finished runs."""
