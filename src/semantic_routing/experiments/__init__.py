"""What trains and evaluates whole models: the first ten minutes, and comparisons of fusion strategies."""
