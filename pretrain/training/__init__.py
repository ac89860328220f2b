"""What a pretraining is made of: optimizers, learning-rate schedules, and the teachers that it may learn from."""
