"""The kernel that `outer_scan` and `delta_scan` share; `../delta/README.md` describes it."""
