"""The labelling page: its server, its store of judgements, its templates."""
