"""What gives the reward: a sequence classifier, a Python function of texts, or several of these with weights."""
