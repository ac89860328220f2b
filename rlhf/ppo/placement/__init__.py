"""The models of a PPO run and where their weights are: data types, devices, and how much memory that takes."""
