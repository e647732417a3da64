"""In which sense a structure is new, against what, and why."""
