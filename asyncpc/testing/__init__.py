"""What tests of pipelines need: a clock that jumps."""
