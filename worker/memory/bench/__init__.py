"""How well memories are found: recall on data sets with known evidence, without a judge."""
