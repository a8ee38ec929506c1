"""The worker's HTTP endpoint; `app` and `server` are imported only where it is switched on."""
