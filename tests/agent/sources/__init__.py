"""Sources of GPU samples."""
