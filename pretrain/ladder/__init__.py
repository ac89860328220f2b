"""The lecture's steps: six small models between a table of pairs and a transformer."""
