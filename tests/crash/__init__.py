"""Injects faults into real processes under load and counts what arrived: ``make crash``."""
