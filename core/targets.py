"""Targets: the id each position is to predict. The rooms that make them and the one that takes the loss agree here."""

IGNORE = -100  # the target of a position nothing is learned from
