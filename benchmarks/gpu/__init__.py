"""What is checked and measured on a machine with a GPU; `scripts/gpu_check.sh` runs it."""
