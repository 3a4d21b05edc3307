"""Neural network modules and functions, named as in their papers; no training logic, no file formats."""
