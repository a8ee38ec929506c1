"""Operations on many jobs at once: which jobs, what becomes of them, how far it is."""
