"""Robustness tests: one test per model and sensor failure, and the report that compares them."""
