"""Several processes that take callbacks from one port (``listen.processes``): a supervisor and its children.

The supervisor takes no callbacks: it holds the listening sockets and the admin port, starts children and
starts them again, tells them to stop, and shows what they count as one. Each child is receiver and forwarder
with a journal of its own. Where workers run too, they run in one more child, so that a sink that fails or
takes the processor holds up neither callbacks nor the supervisor.
"""
