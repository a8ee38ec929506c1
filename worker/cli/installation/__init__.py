"""The commands about the installation as a whole, and about the shell they are typed in."""
