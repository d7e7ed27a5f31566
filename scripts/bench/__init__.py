"""What this machine makes of the mesh: `make bench`, run as a module in an environment of its own."""
