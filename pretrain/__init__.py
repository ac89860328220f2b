"""The base course: a GPT trained from scratch, evaluated and sampled."""
