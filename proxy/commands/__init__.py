"""What `switchboard <command>` does, one module each; cli.py only parses."""
