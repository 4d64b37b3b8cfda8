"""The command line: one program, `nprobot`, with one module a command."""
