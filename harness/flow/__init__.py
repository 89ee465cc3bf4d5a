"""The mathematics of flow matching: which components go together, the objective, and sampling."""
