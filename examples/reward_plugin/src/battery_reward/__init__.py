"""A reward for battery cathodes."""
