"""Questions to models and to data: discoveries, combinations, sgRNAs, enrichment, stability."""
