"""The same patient under another scanner, sex or finding: causal graph, image mechanism, counterfactuals."""
