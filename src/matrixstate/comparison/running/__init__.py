"""How it is carried out: jobs in a pool of workers, a directory that can be resumed, and its CSV tables."""
