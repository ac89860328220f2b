"""Whether cyclical learning rates pay: many short trials of each schedule."""
