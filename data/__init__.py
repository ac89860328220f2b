"""What the stages learn from: corpora, tokenizers, dialogue pairs."""
