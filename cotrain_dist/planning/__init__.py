"""What a training would do, before it starts."""
