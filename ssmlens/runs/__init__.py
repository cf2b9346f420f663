"""Training runs as data: run folders, what they measured, arms beside each other, students of a teacher."""
