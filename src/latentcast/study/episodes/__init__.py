"""Blocks of episodes side by side: common channels, one tidy table, two fidelities with one meaning."""
