"""The daemon: its parts, in the order in which they start and end; heartbeat, vitals, systemd."""
