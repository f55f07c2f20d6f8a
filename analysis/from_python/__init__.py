"""The laboratory from Python: what analysis/__init__.py hands on to. Results show themselves in notebooks and terminals."""
