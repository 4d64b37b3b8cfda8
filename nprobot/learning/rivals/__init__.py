"""Learning rules of others, to compare with; they learn as the package's own do, by their names."""
