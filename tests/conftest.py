"""Ctrl-C reaches the programs that tests start, however the tests themselves were started."""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
