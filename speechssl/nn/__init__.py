"""Neural building blocks, each named for the part of the paper it is: no training logic, no file formats."""
