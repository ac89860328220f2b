"""Training on whole rankings: what a batch is, the trainer, and a stage's training from beginning to end."""
