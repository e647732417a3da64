"""The commands: each parses its arguments, checks what is cheap to check and calls one function."""
