"""The demo: a scenario in processes of its own, and the checks of every promise."""
