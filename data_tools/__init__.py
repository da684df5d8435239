"""Recordings to data sets: prepare, inspect. Nothing here loads torch."""
