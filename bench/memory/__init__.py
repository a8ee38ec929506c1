"""What memories cost."""
