"""What all commands share: output, ids, times, payloads, exit codes, the connection, completion."""
