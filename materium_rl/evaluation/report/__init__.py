"""The report of a finished comparison as one HTML file, and the schema of its JSON."""
