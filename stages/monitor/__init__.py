"""Stages that watch what a model meets after it was made."""
