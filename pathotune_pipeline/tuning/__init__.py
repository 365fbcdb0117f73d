"""Training encoders and adapters: on patches, on slides, by themselves."""
