"""From a law and rows to an optimum that is proven to be one, its certificate and its intervals."""
