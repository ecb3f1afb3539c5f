"""Measurements: of speed and memory, each against a peer or a floor in one run, and of the tests."""
