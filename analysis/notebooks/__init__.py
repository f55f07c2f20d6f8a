"""Notebooks as Python files (jupytext, percent format): `jupytext --to notebook FILE.py`, or open them in Jupyter Lab."""
