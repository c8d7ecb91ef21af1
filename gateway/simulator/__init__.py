"""A small, honest double of Tencent's side: makes callbacks, sends them, and proves that they arrived.

``bodies`` and ``query`` make a callback, ``sender`` and ``http1`` send it, ``ledger`` writes down what was
sent and how it was answered, ``proof``, ``arrivals`` and ``verify`` compare that with what a sink has.
"""
