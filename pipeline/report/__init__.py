"""The report: one HTML page that shows what was learnt, and every error."""
