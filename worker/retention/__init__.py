"""What leaves by itself: jobs that expire before they start, and jobs that ended long ago."""
