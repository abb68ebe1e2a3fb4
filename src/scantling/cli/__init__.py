"""The command line: one module per verb, each calling one library function."""
