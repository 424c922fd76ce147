"""The command line: one module per verb, listed in main.py."""
