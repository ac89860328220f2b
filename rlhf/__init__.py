"""PPO against the ranking model, and the comparison of every stage."""
