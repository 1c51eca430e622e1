"""Stores on one machine: memory, and what the archives share with it."""
