"""Searches for better settings, and seed studies: many trainings, on Ray. `python -m mnistflow.sweep` is a search."""
