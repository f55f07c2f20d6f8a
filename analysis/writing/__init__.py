"""Say how results are written: numbers for people, strict JSON, output files, the terminal. Knows no law and no fit."""
