"""The report: one HTML file made of tables, never of models, that a browser opens from disk."""
