"""Tasks to learn (:mod:`programs.catalog`), each a DSPy program with its data and its metric with
feedback; and the embedded policy (:mod:`programs.micro`).
"""
