"""The three experiments of the paper, from published files to tables and figures."""
