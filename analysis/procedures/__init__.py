"""Fit the laws that are not one formula: each in steps of its own, found through registry.py."""
