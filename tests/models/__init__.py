"""Models: a clock, a disk and a broker that can do what real ones rarely do, around the gateway's own code.

What the journal, the publisher and the forwarder promise is compared with them over many random histories.
`make test` tries some; `make test ARGS='--hypothesis-profile=soak tests/models'` tries a hundred times as many.
"""
