"""Runs as spans of OpenTelemetry, by its semantic conventions for generative AI."""
