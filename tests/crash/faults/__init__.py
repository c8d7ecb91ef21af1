"""The faults, a module for each part that breaks; the numbers give the order of the table."""
