"""The composition root: the ``fst`` command, checks, reports, studies, benchmarks, run files."""
