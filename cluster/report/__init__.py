"""`report.html`: a page about a run."""
