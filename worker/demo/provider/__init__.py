"""The demo's model provider: an OpenAI-compatible server with a bill of its own."""
