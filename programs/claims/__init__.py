"""Multi-hop fact verification: two predictors search a corpus, a third decides."""

from programs.claims.retrieval import Retriever
from programs.claims.task import ENTRY, ClaimsOptions, ClaimVerifier, build, exact, metric

__all__ = [
    "ENTRY",
    "ClaimVerifier",
    "ClaimsOptions",
    "Retriever",
    "build",
    "exact",
    "metric",
]
