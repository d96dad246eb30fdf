"""GenEval (Ghosh et al., 2023, arXiv 2310.11513): objects, their number, colors and places, judged by a detector."""
