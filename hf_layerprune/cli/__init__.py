"""The command line: one file per command. Each parses, calls the function of the same name, and reports."""
