"""Tasks to learn: each a DSPy program with its data and its metric-with-feedback."""
