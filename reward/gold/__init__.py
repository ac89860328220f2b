"""The gold judge: rules that score a reply, which no model sees."""
