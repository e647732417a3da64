"""The built-in rewards, one subject a file."""
