"""The two steps of the method, and the passes they are made of."""
