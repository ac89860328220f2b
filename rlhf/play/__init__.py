"""The stage: play with the run's models, judge them blind, and teach them a taste."""
