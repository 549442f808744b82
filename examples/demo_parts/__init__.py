"""The three parts of the demo, one for each kind of user."""
