"""What the parts of a worker cost by themselves."""
