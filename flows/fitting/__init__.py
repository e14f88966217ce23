"""A preset that fits one's own text and this machine: what the files hold, a model for it, and a file that says why."""
