"""What needs a GPU: run by `make gpu`, skipped where there is none."""
