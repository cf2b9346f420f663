"""Models to look into: their mixers, their projections, and how they are found and loaded."""
