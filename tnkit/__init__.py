"""tnkit."""
