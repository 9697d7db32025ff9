"""Published weights in, and ours out. See ``base`` for what a layout is, ``importing`` for how one is applied."""
