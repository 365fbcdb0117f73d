"""Bags of features, their labels and their splits by patient."""
