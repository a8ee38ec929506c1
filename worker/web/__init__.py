"""What a worker shows over HTTP; `app` and `server` are imported only where it is switched on."""
