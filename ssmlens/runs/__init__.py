"""Training runs as data: run folders, their metrics, comparisons of arms, students of a teacher."""
