"""Support for the commands: options, output, exit codes, signals."""
