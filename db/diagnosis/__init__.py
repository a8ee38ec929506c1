"""Why a job waits, what is broken, how well the installation is."""
