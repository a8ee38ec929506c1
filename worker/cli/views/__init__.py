"""How one job, one run and one fork are printed, for people and for programs."""
