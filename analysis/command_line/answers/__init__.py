"""Print what each command found: a file a command, each with `show`. Nothing here computes."""
