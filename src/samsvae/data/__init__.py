"""Screens: what was measured, what each cell received, how it is split and batched."""
