"""Laws that are fitted in steps of their own, and what their fits are made of."""
