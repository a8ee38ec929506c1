"""Memory: texts that are remembered, and the vectors by which they are found."""
