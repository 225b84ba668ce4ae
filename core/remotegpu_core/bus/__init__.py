"""What travels between processes and may be lost: samples, presence, watch rates, nudges.

One code path for a real Redis or Valkey and for the in-process stand-in.
"""
