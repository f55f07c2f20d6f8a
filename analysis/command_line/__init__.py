"""Speak with the person at the command line: flags and files that commands share, and the answers in words and tables."""
