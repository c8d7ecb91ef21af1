"""``make bench``: how fast, beside peers, in one run on one machine. No unit test depends on it."""
