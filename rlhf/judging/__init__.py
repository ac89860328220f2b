"""Replies of every stage, and how they are judged."""
