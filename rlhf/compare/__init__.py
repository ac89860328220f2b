"""The comparison of every stage and its report."""
