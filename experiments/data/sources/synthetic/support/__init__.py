"""What the kinds of synthetic text share: options, random numbers, entropies."""
