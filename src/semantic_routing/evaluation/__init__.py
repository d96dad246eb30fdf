"""Benchmarks: sample images for a list of prompts, score them, and say how certain the scores are."""
