"""What the presets are worth, measured: `make bench`. No stage uses anything of this."""
