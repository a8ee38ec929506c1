"""Chat threads, their messages, and the artifacts of messages.

Read in this order: threads → messages → message_artifacts.
"""
