"""The demonstration: a screen whose truth is known, and how much of it is recovered."""
