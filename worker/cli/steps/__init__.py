"""Commands about what steps leave: files."""
