"""The paper's figures and tables from a trained model, and one report of them all."""
