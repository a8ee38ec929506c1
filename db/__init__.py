"""What is stored: one module per noun, and the only place with SQL."""
