"""What lies where: run folders, and the models, suites and analyses in them."""
