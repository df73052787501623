"""The integer network, its netx file, its exact meaning, and Lava runs."""
