"""One adaptation: an encoder, labelled patches, a method; what was learnt, and how well it does."""
