"""OpenTelemetry: what is traced, how it is called, and how it gets to a collector."""
