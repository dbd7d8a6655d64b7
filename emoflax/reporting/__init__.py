"""Scores, intervals, reports, comparisons and the ledger of results."""
