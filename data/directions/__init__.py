"""Directions: what a prompt asks of its reply, in the play's own way, as a stage direction at the speaker's heading."""
